"""Calls in a process apart, whose fault or hang loses nothing here: what breaks a GPU breaks it for its process."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _Failure(NamedTuple):
    told: str


def _serve(calls: Connection) -> None:
    while True:
        function, arguments, options = calls.recv()
        try:
            found = function(*arguments, **options)
        except Exception as error:
            found = _Failure(f"{type(error).__name__}: {error}")
        calls.send(found)


class Apart:
    """Begins its process at the first call, and another after a call that failed."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds  # of a call, the start of the process included
        self._context = get_context("spawn")  # CUDA does not survive a fork
        self._process: SpawnProcess | None = None
        self._calls: Connection | None = None

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def __call__(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Raises RuntimeError with what ended the call."""
        if self._calls is None or self._process is None:
            self._calls, self._process = self._begin()
        try:
            self._calls.send((function, arguments, options))
            ended = self._calls.poll(self.seconds)
            found = self._calls.recv() if ended else _Failure(f"no end within {self.seconds} s")
        except (EOFError, ConnectionError):  # it may have ended before it read the call
            self._process.join()
            found = _Failure(f"its process ended with status {self._process.exitcode}")
        if isinstance(found, _Failure):
            self.end()
            raise RuntimeError(found.told)
        return found

    def _begin(self) -> tuple[Connection, SpawnProcess]:
        calls, others = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(others,), daemon=True)
        process.start()
        others.close()  # so that the end of the process is the end of what comes from it
        return calls, process

    def end(self) -> None:
        """What is called next begins another process."""
        if self._calls is not None and self._process is not None:
            self._process.kill()
            self._process.join(5)  # what is stuck in the driver is left behind
            self._calls.close()
            self._calls = self._process = None
