"""Ctrl-C that waits for the end of a step: raised in the middle of one it could leave half of the weights moved."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """While entered, the first SIGINT sets ``requested``; a second one raises KeyboardInterrupt as usual.

    ``quiet``: it prints nothing, in those processes of a run that leave that to the first.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.requested = False
        self._quiet = quiet
        self._previous: Any = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if self._quiet:
            return
        print("\ninterrupted: finishing this step, then saving; press Ctrl-C again to stop at once", flush=True)

    def __enter__(self) -> Interrupt:
        self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._previous)
