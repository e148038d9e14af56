"""Many models at once: sweep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvt_deploy.cli.app import command_with_options
from hvt_deploy.cli.completion import complete_models_list, complete_precisions
from hvt_deploy.cli.help import epilog
from hvt_deploy.cli.inputs import check_precisions, parse_list
from hvt_deploy.cli.options import (
    CalibrationImagesOption,
    CalibrationOption,
    DeviceOption,
    JsonOption,
    LabelsOption,
    LimitOption,
    MaxDropOption,
    WorkspaceOption,
)
from hvt_deploy.cli.output import open_ui, show_json, show_lines, show_results, show_table
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.types import DEFAULT_WORKSPACE

if TYPE_CHECKING:
    from hvt_deploy.commands.benchmark import Benchmark


@dataclass(frozen=True)
class SweepOptions:
    """Flags of `sweep`."""

    models: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Model names, wildcards, timm:NAME, module:factory or ONNX files, "
            "comma-separated.",
            autocompletion=complete_models_list,
        ),
    ]
    precisions: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="Precisions, comma-separated.", autocompletion=complete_precisions
        ),
    ] = "fp32,fp16,int8"
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default="none: a benchmark",
            help="Validation images in class folders.",
        ),
    ] = None
    labels: LabelsOption = None
    calib: CalibrationOption = None
    calib_images: CalibrationImagesOption = None
    limit: LimitOption = None
    device: DeviceOption = None
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="auto|official|random",
            show_default="auto",
            help="Weights of every model.",
        ),
    ] = None
    max_top1_drop: MaxDropOption = None
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Directory of the combined report.")
    ] = Path("sweep")
    workspace: WorkspaceOption = DEFAULT_WORKSPACE
    as_json: JsonOption = False


@command_with_options(
    "sweep",
    SweepOptions,
    "Judge and compare",
    epilog(
        "sweep --models 'fdvit_*,faster_vit_0*' --data imagenet/val",
        "sweep --models fdvit_b,timm:resnet50 --calib photos",
        "sweep --models fdvit_ti --precisions fp32,fp16 --weights random",
    ),
)
def sweep(options: SweepOptions) -> None:
    """Run every step for many models, into one report.

    Without --data nothing is validated: a table of size, latency, throughput, traffic and kernels
    of every backend that runs here. It continues after failures, and run again it goes on where
    it was.
    """
    from hvt_deploy.commands.sweep import benchmark
    from hvt_deploy.commands.sweep import sweep as run_sweep

    settings = _sweep_settings(options)
    patterns = [pattern for pattern in parse_list(options.models) if pattern]
    precisions = check_precisions(parse_list(options.precisions))
    places, ui = (settings, options.workspace, options.output), open_ui(options.as_json)
    if options.data is None:
        _refuse_unused(options)
        found = benchmark(patterns, precisions, *places, ui)
        _show_benchmark(found, options.output, options.as_json)
        raise typer.Exit(found.exit_code)
    done = run_sweep(patterns, precisions, options.data, options.labels, *places, ui)
    show_results(done.results, done.folder, options.as_json)
    raise typer.Exit(done.exit_code)


def _refuse_unused(options: SweepOptions) -> None:
    """A gate or a sample of images without images would be passed over in silence."""
    given = {
        "--labels": options.labels,
        "--limit": options.limit,
        "--max-top1-drop": options.max_top1_drop,
    }
    for flag, value in given.items():
        if value is not None:
            raise BadInput(f"{flag} needs images to validate.", "Give them with --data DIR.")


def _sweep_settings(options: SweepOptions) -> dict[str, object]:
    return {
        "calibration.folder": options.calib,
        "calibration.images": options.calib_images,
        "validation.limit": options.limit,
        "validation.device": options.device,
        "export.weights": options.weights,
        "validation.max_top1_drop": options.max_top1_drop,
    }


def _show_benchmark(found: Benchmark, folder: Path, as_json: bool) -> None:
    from hvt_deploy.commands.benchmark import COLUMNS

    if as_json:
        show_json(found)
        return
    show_table("Benchmark", COLUMNS, [row.cells() for row in found.rows])
    show_lines(f"- {note}" for note in found.notes)
    for file in (folder / "benchmark.md", folder / "benchmark.svg"):
        if file.is_file():
            typer.echo(str(file))
