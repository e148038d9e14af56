"""From a wrong result to its cause: diagnose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvt_deploy.cli.app import command_with_options
from hvt_deploy.cli.completion import complete_words
from hvt_deploy.cli.help import choices, epilog
from hvt_deploy.cli.options import (
    ConfigOption,
    JsonOption,
    ModelArgument,
    WorkspaceOption,
)
from hvt_deploy.cli.output import open_ui, show_json, show_table
from hvt_deploy.core.types import DEFAULT_WORKSPACE, PRECISIONS, Device

if TYPE_CHECKING:
    from hvt_deploy.commands.diagnosis import Diagnosis


@dataclass(frozen=True)
class DiagnoseOptions:
    """Flags of `diagnose`."""

    model: ModelArgument = None
    graph: Annotated[
        str | None,
        typer.Option(
            metavar="GRAPH",
            show_default="all of them",
            help="Graph to check: fp32, fp16, int8, int8-fp32, int8-cpu or an ONNX file.",
            autocompletion=complete_words((*PRECISIONS, "int8-cpu")),
        ),
    ] = None
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", show_default="the calibration images", help="Directory of images."
        ),
    ] = None
    device: Annotated[
        Device, typer.Option(metavar=choices(Device), help="Device of ONNX Runtime.")
    ] = "cpu"
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Directory for reproduction files.")
    ] = Path("diagnosis")
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default="find faults instead",
            help="Only run the reproduction files in DIR.",
        ),
    ] = None
    workspace: WorkspaceOption = DEFAULT_WORKSPACE
    config_file: ConfigOption = None
    as_json: JsonOption = False


@command_with_options(
    "diagnose",
    DiagnoseOptions,
    "Judge and compare",
    epilog(
        "diagnose --graph int8 --data imagenet/val",
        "diagnose --replay diagnosis/fdvit_b-int8",
        terms=("local error",),
    ),
)
def diagnose(options: DiagnoseOptions) -> None:
    """Find the module where a graph diverges from PyTorch.

    FP16 and INT8 graphs are compared with the FP32 graph. Exit 1 where one diverges.
    """
    if options.replay is not None:
        raise typer.Exit(_replay_fault(options.replay, options.as_json))
    from hvt_deploy.commands.api import open as open_model

    ui, config = open_ui(options.as_json), options.config_file
    model = open_model(options.model, workspace=options.workspace, config=config, progress=ui)
    found = model.diagnose(
        options.graph, data=options.data, device=options.device, output=options.output
    )
    _show_diagnosis(found, options.as_json)
    raise typer.Exit(1 if found.diverged else 0)


def _show_diagnosis(found: Diagnosis, as_json: bool) -> None:
    if as_json:
        show_json(found.graphs)
        return
    show_table(found.grid.title, found.grid.headings, found.grid.rows)
    for one in found.graphs:
        typer.echo(one.sentence)
        if one.folder:
            typer.echo(f"  Reproduce: hvt-deploy diagnose --replay {one.folder}")


def _replay_fault(folder: Path, as_json: bool) -> int:
    """Run reproduction files again; returns the exit code."""
    from hvt_deploy.evaluation.reproduction import replay

    fault, error = replay(folder)
    if as_json:
        show_json({"fault": fault, "local_error": error})
    else:
        typer.echo(
            f"{fault.candidate}, {fault.module.path} ({len(fault.nodes)} nodes): "
            f"local error against {fault.reference} {error:.1e}, limit {fault.limit:g}; "
            f"{fault.module.local_error:.1e} when it was found."
        )
    return 0 if error <= fault.limit else 1
