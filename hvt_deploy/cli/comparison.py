"""What changed between two validations: diff."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvt_deploy.cli.app import command_with_options
from hvt_deploy.cli.completion import complete_exported
from hvt_deploy.cli.help import epilog
from hvt_deploy.cli.options import NEWEST_EXPORT, JsonOption, WorkspaceOption
from hvt_deploy.cli.output import open_ui, show_json, show_table
from hvt_deploy.core.types import DEFAULT_WORKSPACE

if TYPE_CHECKING:
    from hvt_deploy.commands.diff import Difference
    from hvt_deploy.core.ui import Ui


@dataclass(frozen=True)
class DiffOptions:
    """Flags of `diff`."""

    before: Annotated[
        Path | None,
        typer.Argument(
            metavar="A.json",
            show_default="the last but one of the model",
            help="results.json of a validation.",
        ),
    ] = None
    after: Annotated[
        Path | None,
        typer.Argument(
            metavar="B.json",
            show_default="the model's last",
            help="results.json of a later one.",
        ),
    ] = None
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            show_default=NEWEST_EXPORT,
            help="Without files: the exported model.",
            autocompletion=complete_exported,
        ),
    ] = None
    workspace: WorkspaceOption = DEFAULT_WORKSPACE
    margin: Annotated[
        float,
        typer.Option(
            metavar="POINTS", min=0, help="Accuracies within these points count as the same."
        ),
    ] = 0.5
    as_json: JsonOption = False


@command_with_options(
    "diff",
    DiffOptions,
    "Judge and compare",
    epilog("diff", "diff --model fdvit_b", "diff yesterday.json today.json"),
)
def diff(options: DiffOptions) -> None:
    """Show the proven changes between two validations.

    Without files: between a model's last two. Exit 1 where a change is for the worse.
    """
    from hvt_deploy.commands.api import open as open_model
    from hvt_deploy.commands.diff import compare_last_two
    from hvt_deploy.commands.diff import diff as compare
    from hvt_deploy.core.workspace import ModelFolder

    ui = open_ui(options.as_json)
    if options.before is None:
        model = open_model(options.model, workspace=options.workspace, progress=ui)
        found = compare_last_two(ModelFolder(model.path), options.margin)
    elif options.after is None:
        raise typer.BadParameter("Give two files, or none for the last two validations.")
    else:
        found = compare(options.before, options.after, options.margin)
    if options.as_json:
        show_json(found)
    else:
        _show_changes(found, ui)
    raise typer.Exit(1 if found.regressed else 0)


def _show_changes(found: Difference, ui: Ui) -> None:
    from hvt_deploy.evaluation.claims import SAME_SPEED_MARGIN

    for note in found.notes:
        ui.warn(note)
    rows = [(c.backend, c.what, c.before, c.after, c.outcome, c.note) for c in found.changes]
    columns = ("backend", "metric", "before", "after", "outcome", "note")
    speed = f"±{100 * SAME_SPEED_MARGIN:g} % of speed"
    show_table(
        f"Changes (same: within ±{found.margin:g} points of accuracy, {speed})", columns, rows
    )
