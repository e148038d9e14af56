"""Output of the commands: results on stdout, messages on stderr, nothing heavy imported before."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hvt_deploy.core.errors import HvtDeployError
from hvt_deploy.evaluation.report.terms import define_terms

if TYPE_CHECKING:
    from hvt_deploy.core.ui import Ui
    from hvt_deploy.evaluation.record import Results


def open_ui(quiet: bool) -> Ui:
    """Messages and progress of a command, on stderr; `quiet` keeps warnings only."""
    from hvt_deploy.evaluation.report.console import TerminalUi, open_console

    return TerminalUi(open_console(stderr=True), quiet=quiet)


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


def epilog_with_terms(example: str, *terms: str) -> str:
    """The end of a `--help`: an example, then the definitions of terms."""
    defined = "\n".join(f"- {name}: {text}" for name, text in define_terms(terms).items())
    return f"{example}\n\n**Terms**\n\n{defined}"
