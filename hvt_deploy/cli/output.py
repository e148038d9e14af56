"""Output of the commands: results on stdout, messages on stderr, nothing heavy imported before."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hvt_deploy.core.errors import HvtDeployError
from hvt_deploy.core.verbosity import VERBOSE, silence_libraries

if TYPE_CHECKING:
    from hvt_deploy.core.ui import Ui
    from hvt_deploy.evaluation.record import Results


# Whether the command that runs was asked to keep messages and progress to itself.
_QUIET = ContextVar("_QUIET", default=False)


def set_verbosity(*, quiet: bool, verbose: bool) -> None:
    """Take --quiet and --verbose of a command, before it imports anything heavy."""
    if quiet and verbose:
        raise typer.BadParameter("--quiet and --verbose exclude each other.")
    _QUIET.set(quiet)
    if verbose:
        os.environ[VERBOSE] = "1"
    else:
        silence_libraries()


def open_ui(quiet: bool) -> Ui:
    """Messages and progress of a command, on stderr; `quiet` or --quiet keeps warnings only."""
    from hvt_deploy.evaluation.report.console import TerminalUi, open_console

    return TerminalUi(open_console(stderr=True), quiet=quiet or _QUIET.get())


def show_error(error: HvtDeployError) -> None:
    """Print an error and its hint on stderr."""
    from hvt_deploy.evaluation.report.console import open_console, print_error

    print_error(error, open_console(stderr=True))


def show_json(value: object) -> None:
    """Print a record on stdout as JSON."""
    from hvt_deploy.core.serialization import to_plain

    typer.echo(json.dumps(to_plain(value), indent=2))


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on stdout."""
    from hvt_deploy.evaluation.report.console import open_console
    from hvt_deploy.evaluation.report.terminal import print_table

    print_table(title, columns, rows, open_console())


def show_lines(lines: Iterable[str]) -> None:
    """Print sentences on stdout, folded to the width of the terminal."""
    from hvt_deploy.evaluation.report.console import open_console
    from hvt_deploy.evaluation.report.terminal import plain_text

    console = open_console()
    for line in lines:
        console.print(plain_text(line))


def show_results(results: Results, folder: Path | None, as_json: bool) -> None:
    """Print a validation, and the path of its report if `folder` holds one."""
    if as_json:
        show_json(results)
        return
    from hvt_deploy.evaluation.report.console import open_console
    from hvt_deploy.evaluation.report.terminal import print_results

    print_results(results, open_console())
    if folder is not None:
        typer.echo(f"Report: {folder / 'report.html'}")
