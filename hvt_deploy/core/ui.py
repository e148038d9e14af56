"""How commands report to a person, a log or nobody."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

Progress = Callable[[int, int], None]


class Ui(Protocol):
    """The person's side of a step. Everything goes to stderr; results are returned, not said."""

    def say(self, message: str) -> None:
        """Report what was done or decided."""
        ...

    def warn(self, message: str) -> None:
        """Report what the user must not overlook."""
        ...

    def progress(self, description: str) -> AbstractContextManager[Progress]:
        """Show a bar while the context is open; call what it gives with (done, total)."""
        ...


class SilentUi:
    """A Ui that says nothing: for programs and tests. Warnings are kept in `warnings`."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def say(self, message: str) -> None:
        """Ignore."""

    def warn(self, message: str) -> None:
        """Keep for the caller."""
        self.warnings.append(message)

    def progress(self, description: str) -> AbstractContextManager[Progress]:
        """Ignore."""

        def ignore(done: int, total: int) -> None:
            pass

        return nullcontext(ignore)
