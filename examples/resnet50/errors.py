"""What ends a run with one line in place of a traceback, and with which exit code."""

from __future__ import annotations


class RunError(Exception):
    """The message is that line."""

    exit_code = 1


class UserError(RunError):
    """A wrong option, path or file: the message names it, what it must be and what came."""

    exit_code = 2


class Disagreement(RunError):
    """Fused and reference loss parted by more than rounding explains."""


class Diverged(RunError):
    """A loss or an embedding became NaN or infinite: the message names the step."""
