"""From FP32 to FP16 and INT8 graphs: quantize."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvt_deploy.cli.app import command_with_options
from hvt_deploy.cli.help import choices, epilog
from hvt_deploy.cli.inputs import choose_precision, find_exported
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
    CALIBRATORS,
    DEFAULT_WORKSPACE,
    CalibratorChoice,
    FlavourChoice,
    Precision,
)

if TYPE_CHECKING:
    from hvt_deploy.commands.find_recipe import Budgeted
    from hvt_deploy.core.manifest import Manifest
    from hvt_deploy.core.workspace import ModelFolder


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
        bool, typer.Option(help="Try SmoothQuant: move activation outliers into the weights.")
    ] = True
    bias_correction: Annotated[
        bool, typer.Option(help="Try bias correction: remove the mean error of INT8 layers.")
    ] = True
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
    from hvt_deploy.evaluation.budget_record import BudgetRequest

    precision = choose_precision(options.precision, options.fp16, options.int8) or "int8"
    ui = open_ui(options.as_json)
    folder, config = find_exported(
        options.workspace, options.model, options.config_file, _quantize_settings(options), ui
    )
    if options.budget is None:
        from hvt_deploy.commands.quantize import quantize as run_quantize

        _show_graphs(folder, run_quantize(folder, config, precision, ui), precision, options)
        return
    from hvt_deploy.commands.find_recipe import quantize_within_budget

    request = BudgetRequest(
        options.budget, options.budget_data, options.budget_images, options.label_free
    )
    found = quantize_within_budget(folder, config, request, ui)
    _show_budget(found, options.as_json)
    raise typer.Exit(0 if found.record.holds else 1)


def _quantize_settings(options: QuantizeOptions) -> dict[str, object]:
    from hvt_deploy.core.run_config import load_recipe

    wanted = {"smooth-quant": options.smooth_quant, "bias-correction": options.bias_correction}
    recovery = None if all(wanted.values()) else [name for name, on in wanted.items() if on]
    return {
        "calibration.folder": options.calib,
        "calibration.images": options.calib_images,
        "calibration.seed": options.seed,
        "engine.flavour": options.flavour,
        "quantization": load_recipe(options.recipe) if options.recipe else None,
        "quantization.calibrator": options.calibrator,
        "quantization.recovery": recovery,
    }


def _show_graphs(
    folder: ModelFolder, manifest: Manifest, precision: Precision, options: QuantizeOptions
) -> None:
    from hvt_deploy.commands.quantize import GRAPHS_OF
    from hvt_deploy.core.manifest import INT8_CALIBRATION, GraphFacts, Int8CalibrationFacts

    made = {key: str(folder.file(manifest.artifacts[key])) for key in GRAPHS_OF[precision]}
    if options.as_json:
        faults = {key: facts.faults for key in made if (facts := manifest.facts(key, GraphFacts))}
        show_json({**made, "faults": {key: found for key, found in faults.items() if found}})
        return
    calibration = manifest.facts(INT8_CALIBRATION, Int8CalibrationFacts)
    if calibration and precision != "fp16":
        _show_calibrators(calibration.sqnr_by_role)
    typer.echo("\n".join(made.values()))


def _show_calibrators(by_role: Mapping[str, Mapping[str, float]]) -> None:
    from hvt_deploy.evaluation.report.number_format import format_decibels

    columns = [c for c in CALIBRATORS if any(c in found for found in by_role.values())]
    rows = [
        (role, *(format_decibels(found[c]) for c in columns)) for role, found in by_role.items()
    ]
    if rows:
        show_table("SQNR of INT8 layers by role and calibrator", ("role", *columns), rows)


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
