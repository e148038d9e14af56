"""What a workspace holds, and what of it can go: list, clean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from hvt_deploy.cli.app import command
from hvt_deploy.cli.completion import complete_exported
from hvt_deploy.cli.help import epilog
from hvt_deploy.cli.options import JsonOption, WorkspaceOption
from hvt_deploy.cli.output import open_ui, show_json, show_table
from hvt_deploy.core.types import DEFAULT_WORKSPACE

if TYPE_CHECKING:
    from pathlib import Path

    from hvt_deploy.commands.clean import Cleaned
    from hvt_deploy.commands.list import ListedModel


@command("list", "Use and move", epilog("list", "list --json"))
def list_(workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: JsonOption = False) -> None:
    """List the exported models, what was made of them, their last verdicts."""
    from hvt_deploy.commands.list import list_models

    models = list_models(workspace)
    if as_json:
        show_json(models)
    elif not models:
        typer.echo(f"Nothing was exported to {workspace} yet. Run: hvt-deploy export MODEL")
    else:
        _show_models(workspace, models)


def _show_models(workspace: Path, models: Sequence[ListedModel]) -> None:
    from hvt_deploy.evaluation.report.number_format import format_mebibytes

    rows = [
        (
            model.name,
            model.exported[:16].replace("T", " "),
            ", ".join(a.key if a.is_fresh else f"{a.key} (stale)" for a in model.artifacts),
            format_mebibytes(model.bytes / 2**20),
        )
        for model in models
    ]
    show_table(str(workspace), ("model", "exported (UTC)", "artifacts", "size"), rows)
    for model in models:
        for sentence in _sentences_of(model):
            typer.echo(f"{model.name}: {sentence}")


def _sentences_of(model: ListedModel) -> list[str]:
    sentences = [model.damage] if model.damage else []
    if model.untrained:
        sentences.append("Its weights are random.")
    if model.validated:
        last = model.validated
        gates = ", ".join(f"{g.backend} --{g.name} {g.status}" for g in last.gates)
        replaced = f"others since then: {', '.join(last.replaced)}" if last.replaced else ""
        about = "; ".join(filter(None, (last.created[:10], gates, replaced)))
        sentences.append(f"{last.verdict} ({about})")
    return sentences


@command("clean", "Use and move", epilog("clean", "clean fdvit_b --remove"))
def clean(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            show_default="all",
            help="Exported models.",
            autocompletion=complete_exported,
        ),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove what is listed without this option.")
    ] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """List what nothing needs any more; with --remove, remove it.

    That is artifacts made from others that were replaced, and what interrupted runs left. Only what
    hvt-deploy made is touched.
    """
    from hvt_deploy.commands.clean import clean as run_clean

    _show_cleaned(run_clean(workspace, models or (), remove=remove), as_json)


def _show_cleaned(done: Cleaned, as_json: bool) -> None:
    from hvt_deploy.evaluation.report.number_format import format_mebibytes

    if as_json:
        show_json(done)
        return
    ui = open_ui(False)
    for one in done.skipped:
        ui.warn(f"{one.what}: {one.why}")
    for one in done.found:  # in a table a path is folded, and cannot be copied
        typer.echo(f"{one.path}, {format_mebibytes(one.bytes / 2**20)}, {one.why}")
    total = format_mebibytes(done.bytes / 2**20)
    if done.removed:
        typer.echo(f"Removed: {total}.")
    elif done.found:
        typer.echo(f"{total} in all. To remove it, add --remove.")
    else:
        typer.echo("Everything is needed.")
