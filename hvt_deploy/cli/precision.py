"""From FP32 to FP16 and INT8 graphs: quantize."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvt_deploy.cli.app import command_with_options
from hvt_deploy.cli.help import choices, epilog
from hvt_deploy.cli.inputs import choose_precision
from hvt_deploy.cli.options import (
    CalibrationImagesOption,
    CalibrationOption,
    ConfigOption,
    Fp16Option,
    Int8Option,
    JsonOption,
    ModelArgument,
    PrecisionOption,
    WorkspaceOption,
)
from hvt_deploy.cli.output import open_ui, show_json, show_table
from hvt_deploy.core.types import (
    DEFAULT_WORKSPACE,
    CalibratorChoice,
    FlavourChoice,
)

if TYPE_CHECKING:
    from hvt_deploy.commands.exported_model import Model
    from hvt_deploy.commands.quantized_graphs import Budgeted, Quantized


_OWN_RECOVERY = "the model's own: on, unless it was switched off before"


@dataclass(frozen=True)
class QuantizeOptions:
    """Flags of `quantize`."""

    model: ModelArgument = None
    precision: PrecisionOption = None
    fp16: Fp16Option = False
    int8: Int8Option = False
    calib: CalibrationOption = None
    calib_images: CalibrationImagesOption = None
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", show_default="0", help="Seed of the calibration sample."),
    ] = None
    calibrator: Annotated[
        CalibratorChoice | None,
        typer.Option(
            metavar=choices(CalibratorChoice),
            show_default="auto",
            help="Calibration method for activation ranges; auto: the best one of each tensor.",
        ),
    ] = None
    smooth_quant: Annotated[
        bool | None,
        typer.Option(
            show_default=_OWN_RECOVERY,
            help="Try SmoothQuant: move activation outliers into the weights.",
        ),
    ] = None
    bias_correction: Annotated[
        bool | None,
        typer.Option(
            show_default=_OWN_RECOVERY,
            help="Try bias correction: remove the mean error of INT8 layers.",
        ),
    ] = None
    weight_rounding: Annotated[
        bool | None,
        typer.Option(
            show_default=_OWN_RECOVERY,
            help="Try weight rounding: errors of INT8 weights that cancel.",
        ),
    ] = None
    flavour: Annotated[
        FlavourChoice | None,
        typer.Option(
            metavar=choices(FlavourChoice),
            show_default="auto, the one that builds here",
            help="TensorRT library to place INT8 for.",
        ),
    ] = None
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="the model's own",
            help="Quantization recipe that --budget wrote.",
        ),
    ] = None
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            show_default="no search",
            help="Accuracy budget: search a recipe that loses at most so much top-1.",
        ),
    ] = None
    budget_data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", show_default="that of --calib", help="Images for the accuracy budget."
        ),
    ] = None
    budget_images: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            show_default="as many as it needs",
            help="Number of images for the accuracy budget.",
        ),
    ] = None
    label_free: Annotated[
        bool,
        typer.Option("--label-free", help="Budget in agreement with FP32 instead of top-1."),
    ] = False
    workspace: WorkspaceOption = DEFAULT_WORKSPACE
    config_file: ConfigOption = None
    as_json: JsonOption = False


@command_with_options(
    "quantize",
    QuantizeOptions,
    "From checkpoint to engine",
    epilog(
        "quantize --int8 --calib imagenet/train",
        "quantize fdvit_b --fp16",
        "quantize --budget 0.5 --budget-data imagenet/train",
        "quantize --int8 --recipe recipe.yaml",
        terms=("group", "role", "SQNR"),
    ),
)
def quantize(options: QuantizeOptions) -> None:
    """Make the FP16 and INT8 graphs of an exported model."""
    from hvt_deploy.commands.api import open as open_model

    ui, config = open_ui(options.as_json), options.config_file
    model = open_model(options.model, workspace=options.workspace, config=config, progress=ui)
    done = _quantize(model, options)
    _show_quantized(done, options.as_json)
    raise typer.Exit(1 if done.budget and not done.budget.record.holds else 0)


def _quantize(model: Model, options: QuantizeOptions) -> Quantized:
    return model.quantize(
        choose_precision(options.precision, options.fp16, options.int8) or "int8",
        calib=options.calib,
        calib_images=options.calib_images,
        seed=options.seed,
        calibrator=options.calibrator,
        smooth_quant=options.smooth_quant,
        bias_correction=options.bias_correction,
        weight_rounding=options.weight_rounding,
        flavour=options.flavour,
        recipe=options.recipe,
        budget=options.budget,
        budget_data=options.budget_data,
        budget_images=options.budget_images,
        label_free=options.label_free,
    )


def _show_quantized(done: Quantized, as_json: bool) -> None:
    if done.budget:
        _show_budget(done.budget, as_json)
        return
    made = {key: str(path) for key, path in done.paths.items()}
    if as_json:
        show_json({**made, "faults": done.faults, "calibration": done.health})
        return
    if grid := done.calibrators:
        show_table(grid.title, grid.headings, grid.rows)
    typer.echo("\n".join(made.values()))


def _show_budget(found: Budgeted, as_json: bool) -> None:
    from hvt_deploy.evaluation.report.accuracy_budget import (
        SENSITIVITY_COLUMNS,
        SENSITIVITY_NOTE,
        budget_sentence,
        sensitivity_rows,
    )

    if as_json:
        identity = {"recipe": found.recipe, "folder": found.folder, "holds": found.record.holds}
        show_json({**identity, **vars(found.record)})
        return
    show_table("Sensitivity", SENSITIVITY_COLUMNS, sensitivity_rows(found.record))
    typer.echo(f"{SENSITIVITY_NOTE}\n{budget_sentence(found.record)}")
    typer.echo(f"{found.folder / 'recipe.yaml'}\n{found.folder / 'budget.md'}")
