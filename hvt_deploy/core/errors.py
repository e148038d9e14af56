"""The errors a user can meet. Each carries what happened, what to do about it and the exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HvtDeployError(Exception):
    """Base of every error that is reported without a traceback.

    `message` says what happened and what was expected; `hint` says what to do.
    """

    exit_code = 4

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CheckFailed(HvtDeployError):
    """A gate, a parity check or a graph contract did not hold (exit code 1)."""

    exit_code = 1


class BadInput(HvtDeployError):
    """The user's files, names or options are wrong (exit code 2)."""

    exit_code = 2


class MissingEnvironment(HvtDeployError):
    """The machine lacks a package, a GPU, memory or disk (exit code 3)."""

    exit_code = 3


class ToolFailure(HvtDeployError):
    """An exporter, parser, builder or this program failed (exit code 4)."""

    exit_code = 4


def as_failure(error: Exception) -> HvtDeployError:
    """The error of a step; any that is not ours becomes a fault of this program, as its cause."""
    if isinstance(error, HvtDeployError):
        return error
    failure = ToolFailure(
        f"This is a fault in hvt-deploy: {type(error).__name__}: {error}",
        "Run again with --debug and report it.",
    )
    failure.__cause__ = error
    return failure


def unknown_name(what: str, name: str, known: Iterable[str]) -> BadInput:
    """The error for a name that is not in a list: nearest names first, then all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return BadInput(f"Unknown {what} '{name}'.", f"{hint}Known: {', '.join(names)}.")
