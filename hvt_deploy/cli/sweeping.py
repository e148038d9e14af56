"""Many models at once: sweep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hvt_deploy.cli.app import command_with_options
from hvt_deploy.cli.completion import complete_models_list, complete_precisions
from hvt_deploy.cli.help import epilog
from hvt_deploy.cli.inputs import check_precisions, parse_list
from hvt_deploy.cli.options import (
    CalibrationImagesOption,
    CalibrationOption,
    DeviceOption,
    ImagesOption,
    JsonOption,
    LabelsOption,
    LimitOption,
    MaxDropOption,
    WorkspaceOption,
)
from hvt_deploy.cli.output import open_ui, show_results
from hvt_deploy.core.types import DEFAULT_IMAGES, DEFAULT_WORKSPACE


@dataclass(frozen=True)
class SweepOptions:
    """Flags of `sweep`."""

    models: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Model names, wildcards or timm:NAME, comma-separated.",
            autocompletion=complete_models_list,
        ),
    ]
    precisions: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="Precisions, comma-separated.", autocompletion=complete_precisions
        ),
    ] = "fp32,fp16,int8"
    data: ImagesOption = DEFAULT_IMAGES
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
    epilog("sweep --models 'fdvit_*,faster_vit_0*' --data imagenet/val"),
)
def sweep(options: SweepOptions) -> None:
    """Run every step for many models, into one report.

    It continues after failures, and run again it goes on where it was.
    """
    from hvt_deploy.commands.sweep import sweep as run_sweep

    settings = {
        "calibration.folder": options.calib,
        "calibration.images": options.calib_images,
        "validation.limit": options.limit,
        "validation.device": options.device,
        "export.weights": options.weights,
        "validation.max_top1_drop": options.max_top1_drop,
    }
    patterns = [pattern for pattern in parse_list(options.models) if pattern]
    precisions = check_precisions(parse_list(options.precisions))
    places = options.data, options.labels, settings, options.workspace, options.output
    done = run_sweep(patterns, precisions, *places, open_ui(options.as_json))
    show_results(done.results, done.folder, options.as_json)
    raise typer.Exit(done.exit_code)
