"""Options that several commands share, as types: `workspace: WorkspaceOption = ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hvt_deploy.core.types import Precision

DEFAULT_IMAGES = Path("imagenet/val")

ModelArgument = Annotated[
    str | None, typer.Argument(help="Exported model (default: the newest export).")
]
WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", metavar="DIR", help="Directory of exported models.")
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="Configuration file, as `hvt-deploy config` writes it."
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:N]",
        help="Where runtimes run; auto: on the GPU where they can use one.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

CalibrationOption = Annotated[
    str | None, typer.Option("--calib", metavar="DIR", help="Directory of calibration images.")
]
CalibrationImagesOption = Annotated[
    int | None, typer.Option("--calib-images", min=1, help="Number of calibration images.")
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(
        "--precision",
        help="`int8` is INT8 with FP16 in the rest, `int8-fp32` INT8 with FP32 in the rest.",
    ),
]
Fp16Option = Annotated[bool, typer.Option("--fp16", help="Same as --precision fp16.")]
Int8Option = Annotated[bool, typer.Option("--int8", help="Same as --precision int8.")]

ImagesOption = Annotated[
    Path, typer.Option("--data", metavar="DIR", help="Validation images in class folders.")
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--labels", metavar="FILE", help="Labels for a flat folder: a `file label` pair per line."
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Number of images: a seeded, class-stratified sample."),
]
MaxDropOption = Annotated[
    float | None,
    typer.Option("--max-top1-drop", help="Gate: largest accepted drop of top-1, in points."),
]
