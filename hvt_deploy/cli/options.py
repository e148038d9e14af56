"""Options that several commands share, as types: `workspace: WorkspaceOption = ...`.

Each has its default in its help. Where the value comes from the configuration, the flag's own
default is None (not given), and the help names the configuration's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hvt_deploy.cli.completion import complete_exported
from hvt_deploy.cli.help import choices
from hvt_deploy.core.types import Precision

NEWEST_EXPORT = "the newest export"
NO_GATE = "no gate"

ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        show_default=NEWEST_EXPORT,
        help="Exported model.",
        autocompletion=complete_exported,
    ),
]
WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", metavar="DIR", help="Directory of exported models.")
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        show_default="that of the export",
        help="Configuration file, as hvt-deploy config writes it.",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:N]",
        show_default="auto",
        help="Where runtimes run; auto: on the GPU where they can use one.",
    ),
]
ClassNamesOption = Annotated[
    Path | None,
    typer.Option(
        "--class-names",
        metavar="FILE",
        show_default="those that are recorded",
        help="Names that the classes get from now on: one per line, or JSON.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No messages and progress, only warnings and results.")
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Also the lines that libraries print themselves.")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")]

CalibrationOption = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="DIR",
        show_default="imagenet/train",
        help="Directory of calibration images, with or without class folders.",
    ),
]
CalibrationImagesOption = Annotated[
    int | None,
    typer.Option(
        "--calib-images",
        metavar="N",
        min=1,
        show_default="512",
        help="Number of calibration images.",
    ),
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(
        "--precision",
        metavar=choices(Precision),
        show_default="int8",
        help="int8 is INT8 with FP16 in the rest, int8-fp32 INT8 with FP32 in the rest.",
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
        "--labels",
        metavar="FILE",
        show_default="the class folders",
        help="Labels for a flat folder: a line 'file label' for each image.",
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        show_default="all images",
        help="Number of images: a seeded, class-stratified sample.",
    ),
]
MaxDropOption = Annotated[
    float | None,
    typer.Option(
        "--max-top1-drop",
        metavar="POINTS",
        show_default=NO_GATE,
        help="Gate: largest accepted drop of top-1.",
    ),
]
