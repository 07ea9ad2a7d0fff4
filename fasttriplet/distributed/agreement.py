"""Before rows travel: every rank says what it was given, so that all go on or all raise the same error.

One collective of a few numbers, and a second, of what the error is to say, only where they do not agree. Without it a
rank whose arguments are refused would leave the others waiting for it until they time out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from fasttriplet.distributed.group import Group

_Result = TypeVar("_Result")

#: Errors of arguments; what else is raised the other ranks raise as RuntimeError.
_ERRORS: dict[str, type[Exception]] = {error.__name__: error for error in (TypeError, ValueError, NotImplementedError)}


class Statement(NamedTuple):
    """What a rank says of its call."""

    alike: dict[str, object]  #: what must be the same everywhere, by the name that an error calls it
    rows: int  #: how many of what the call is about, anchors mostly
    references: int = 0


def agreed(group: Group, checked: Callable[[], tuple[Statement, _Result]]) -> tuple[list[Statement], _Result]:
    """Every rank's statement, ``alike`` this rank's own; and what ``checked`` made of the arguments.

    Raises:
        The error that ``checked`` raised on the lowest rank where it did, on every rank; ValueError where ``alike``
        differs.
    """
    error, statement, result = None, None, None
    try:
        statement, result = checked()
    except Exception as refused:
        error = refused
    numbers = [0, 0, 0, 0]
    if statement is not None:
        numbers = [1, _digest(statement.alike), statement.rows, statement.references]
    found = group.numbers(numbers)
    if not all(valid for valid, *_ in found):
        raise _error_of_all(group, error) from error
    assert statement is not None and result is not None
    if len({digest for _, digest, *_ in found}) > 1:
        raise ValueError(_difference(group.objects({name: str(value) for name, value in statement.alike.items()})))
    return [Statement(statement.alike, *counts) for _, _, *counts in found], result


def _digest(alike: Mapping[str, object]) -> int:
    """Of what is shown in an error, so that where digests differ an error has something to show."""
    text = repr([(name, str(value)) for name, value in alike.items()])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)


def _error_of_all(group: Group, error: Exception | None) -> Exception:
    told = None if error is None else (type(error).__name__, str(error))
    rank, (kind, text) = next((rank, each) for rank, each in enumerate(group.objects(told)) if each is not None)
    return _ERRORS.get(kind, RuntimeError)(f"{text} (on rank {rank} of process_group)")


def _difference(told: list[dict[str, str]]) -> str:
    names = list(dict.fromkeys(name for each in told for name in each))
    for name in names:
        values = [each.get(name, "nothing") for each in told]
        other = next((rank for rank, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            return (
                f"{name} must be the same on every rank of process_group; got {values[0]} on rank 0 and "
                f"{values[other]} on rank {other}"
            )
    return "arguments must be given in one order on every rank of process_group; got different ones"
