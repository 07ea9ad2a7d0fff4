"""What the command reports in one line instead of a traceback."""

from __future__ import annotations


class UserError(Exception):
    """A wrong option, path or file: the message names it, what it must be and what came. Exit code 2."""
