"""The errors a user can meet. Each carries what happened, what to do about it and the exit code."""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
from collections.abc import Iterable

# What the system says of a path that is wrong, whatever this user may do.
WRONG_PATH = {
    *(errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
}


class HvtDeployError(Exception):
    """Base of every error that is reported without a traceback.

    `message` says what happened and what was expected; `hint` says what to do: from Python 3.11 on
    a traceback shows it, too.
    """

    exit_code = 4

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint and sys.version_info >= (3, 11):
            self.add_note(hint)


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


class HvtDeployWarning(UserWarning):
    """What a program that uses the Python API must not overlook, such as random weights."""


def as_failure(error: Exception) -> HvtDeployError:
    """The error of a step. What the system refused is named with its file; any other error that is
    not ours becomes a fault of this program, as its cause.
    """
    if isinstance(error, HvtDeployError):
        return error
    if isinstance(error, OSError):
        error = with_number(error)
    if isinstance(error, OSError) and error.strerror:
        failure: HvtDeployError = refused_by_system(error)
    elif isinstance(error, MemoryError):
        failure = MissingEnvironment("The memory is full.", "Free some memory and run again.")
    else:
        failure = ToolFailure(
            f"This is a fault in hvt-deploy: {type(error).__name__}: {error}",
            "Run again with --debug and report it.",
        )
    failure.__cause__ = error
    return failure


def with_number(error: OSError) -> OSError:
    """`error`, or the one with the system's number for NumPy's of an array that was half written:
    it has none.
    """
    if error.errno is None and re.search(r"\d+ requested and \d+ written", str(error)):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return error


def refused_by_system(error: OSError) -> HvtDeployError:
    """The error for a step that the system refused, naming the file where it is known."""
    if error.filename is None:
        hint = "Free some space, also in the folder for temporary files (TMPDIR)."
        return MissingEnvironment(f"The system refused a step: {error.strerror}.", hint)
    message = f"The system refused {os.fsdecode(error.filename)}: {error.strerror}."
    if error.errno in WRONG_PATH:
        return BadInput(message, "Give the path of another file or folder.")
    return MissingEnvironment(message, "Make it accessible to this user, or free some space there.")


def unknown_name(what: str, name: str, known: Iterable[str]) -> BadInput:
    """The error for a name that is not in a list: nearest names first, then all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return BadInput(f"Unknown {what} '{name}'.", f"{hint}Known: {', '.join(names)}.")
