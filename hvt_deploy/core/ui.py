"""How commands report to a person, a log or nobody."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from hvt_deploy.core.errors import HvtDeployWarning

Progress = Callable[[int, int], None]
# A program's own display of progress: called with the name of the step, done and total.
StepProgress: TypeAlias = Callable[[str, int, int], None]
_PACKAGE = str(Path(__file__).parent.parent)
_LOGGER = logging.getLogger("hvt_deploy")


@runtime_checkable
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


class ProgramUi:
    """For programs: messages go to the logger `hvt_deploy` (INFO), a warning is an HvtDeployWarning
    at the line that called the package, progress goes to `callback`, if there is one.
    """

    def __init__(self, callback: StepProgress | None = None) -> None:
        self._callback = callback

    def say(self, message: str) -> None:
        """Log a message."""
        _LOGGER.info(message)

    def warn(self, message: str) -> None:
        """Warn as Python does."""
        callers = (frame.filename for frame in inspect.stack(context=0))
        outside = next((n for n, name in enumerate(callers) if not name.startswith(_PACKAGE)), 0)
        warnings.warn(message, HvtDeployWarning, stacklevel=outside + 1)

    def progress(self, description: str) -> AbstractContextManager[Progress]:
        """Call back with the description, done and total."""

        def report(done: int, total: int) -> None:
            if self._callback is not None:
                self._callback(description, done, total)

        return nullcontext(report)
