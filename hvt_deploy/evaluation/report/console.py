"""The terminal of a command: stdout and stderr, messages, progress bars, errors."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from hvt_deploy.core.errors import HvtDeployError
from hvt_deploy.core.ui import Progress as ProgressCallback
from hvt_deploy.evaluation.report.number_format import escape_controls, format_duration
from hvt_deploy.evaluation.report.terminal import plain_text

PIPE_WIDTH = 120
# Lines are filled with spaces up to the width, whatever COLUMNS says.
_WIDEST = 10_000
SECONDS_BETWEEN_PLAIN_LINES = 30.0


def open_console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr that cannot fail on a character.

    Rich takes 80 columns for a pipe or a log, which would fold tables; here it takes `PIPE_WIDTH`.
    `COLUMNS` is respected.
    """
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    wide = not stream.isatty() and "COLUMNS" not in os.environ
    console = Console(stderr=stderr, width=PIPE_WIDTH if wide else None, highlight=False)
    console.width = min(console.width, _WIDEST)
    return console


def print_error(error: HvtDeployError, console: Console) -> None:
    """Print an error and its hint. Long lines are not folded, so that they can be copied."""
    console.print(
        Text.assemble(("Error: ", "bold red"), escape_controls(error.message)),
        soft_wrap=True,
    )
    if error.hint:
        console.print(plain_text(error.hint), soft_wrap=True)


class TerminalUi:
    """Messages and progress of a command on a console (stderr). `quiet` keeps warnings only."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet

    def say(self, message: str) -> None:
        """Print a message, unless quiet."""
        if not self.quiet:
            self.console.print(plain_text(message), soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print a warning."""
        self.console.print(
            Text.assemble(("Warning: ", "bold yellow"), escape_controls(message)),
            soft_wrap=True,
        )

    def progress(self, description: str) -> AbstractContextManager[ProgressCallback]:
        """Show progress while the context is open, unless quiet."""
        return progress_bar(self.console, description, quiet=self.quiet)


@contextmanager
def progress_bar(
    console: Console, description: str, *, quiet: bool = False
) -> Generator[ProgressCallback, None, None]:
    """Give a callback (done, total) that draws a bar with the time left; total 0 means unknown.

    In a log (no terminal, or CI is set) a plain line appears every 30 seconds at most; `quiet`
    shows nothing.
    """
    if quiet:
        yield _ignore
    elif console.is_terminal and not os.environ.get("CI"):
        with _open_bar(console) as bar:
            task = bar.add_task(escape_controls(description), total=None)

            def draw(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total or None)

            yield draw
    else:
        yield _PlainProgress(console, description)


class _PlainProgress:
    """Progress for a log: one line now and then."""

    def __init__(self, console: Console, description: str) -> None:
        self.console = console
        self.description = escape_controls(description)
        self.started = self.printed = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.printed < SECONDS_BETWEEN_PLAIN_LINES or not 0 < done < total:
            return
        self.printed = now
        left = format_duration((now - self.started) * (total - done) / done)
        self.console.print(
            plain_text(f"{self.description}: {100 * done // total} %, about {left} left"),
            soft_wrap=True,
        )


def _ignore(done: int, total: int) -> None:
    pass


def _open_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=console,
    )
