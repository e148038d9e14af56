"""From weights to graphs: export, quantize, inspect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hvt_deploy.cli.app import app
from hvt_deploy.cli.options import (
    DEFAULT_ROOT,
    AsJson,
    Calib,
    CalibImages,
    ConfigFile,
    Fp16,
    Int8,
    Model,
    PrecisionOption,
    Root,
    find_exported,
    one_precision,
    open_ui,
    print_json,
)
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.types import CALIBRATORS, CalibratorChoice, Simplifier

if TYPE_CHECKING:
    from hvt_deploy.core.config import RunConfig
    from hvt_deploy.core.ui import Ui
    from hvt_deploy.core.workspace import ModelFolder
    from hvt_deploy.evaluation.budget_record import BudgetRequest
    from hvt_deploy.graph.export_needs import ExportNeeds


@app.command(epilog="Example: **hvt-deploy export fdvit_b --opset 17 --weights fdvit_b.pth**")
def export(
    model: Annotated[str, typer.Argument(help="A name that `hvt-deploy models` lists.")],
    opset: Annotated[int | None, typer.Option(help="ONNX opset, 17 to 22.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="auto, official, random or a checkpoint's path.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Fixed batch size; without it any.")
    ] = None,
    simplifier: Annotated[Simplifier | None, typer.Option(help="Simplifier.")] = None,
    class_names: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Class names, one a line or JSON.")
    ] = None,
    slug: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Name in the workspace.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of random weights.")] = None,
    image_size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Of faster_vit_*_any_res: 576x960.")
    ] = None,
    window_size: Annotated[
        str | None, typer.Option(metavar="N,N,N,N", help="Windows of its four levels.")
    ] = None,
    carrier_token_size: Annotated[
        int | None, typer.Option(min=1, help="Carrier tokens of a window, a side.")
    ] = None,
    preprocess_in_graph: Annotated[
        bool,
        typer.Option(
            "--preprocess-in-graph", help="Also a graph that takes uint8 pixels of any size."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what memory and disk it needs.")
    ] = False,
    root: Root = DEFAULT_ROOT,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Export a model to ONNX, proven equal to PyTorch."""
    from hvt_deploy.commands.config import config_of
    from hvt_deploy.core.config import load_config, with_flags
    from hvt_deploy.core.environment import require
    from hvt_deploy.core.model_options import ModelOptions
    from hvt_deploy.core.workspace import open_folder
    from hvt_deploy.models.registry import get_spec

    options = ModelOptions(_parse_windows(window_size), carrier_token_size)
    config = (
        load_config(config_file)
        if config_file
        else config_of(model, _parse_size(image_size), options)
    )
    flags = {
        "export.opset": opset,
        "export.weights": weights,
        "export.batch": batch,
        "export.simplifier": simplifier,
        "export.seed": seed,
        "export.preprocess_in_graph": preprocess_in_graph or None,
    }
    require("torch", extra="export")
    from hvt_deploy.commands.export import export as run_export
    from hvt_deploy.commands.export import plan_export

    config = with_flags(config, flags)
    if slug is None:
        spec = get_spec(config.model, config.preprocessing.image_size, config.options)
        slug = Path(model).stem if model.endswith(".json") else spec.slug
    folder = open_folder(root, slug)
    if dry_run:
        _show_needs(plan_export(folder, config), as_json)
        return
    done = run_export(folder, config, class_names, open_ui(as_json))
    pixels_path = str(done.pixels_path) if done.pixels_path else None
    if as_json:
        print_json(
            {
                "slug": done.slug,
                "path": str(done.path),
                "pixels_path": pixels_path,
                "opset": done.opset,
                "parity": done.parity,
                "nodes": done.contract.nodes,
                "untrained": done.untrained,
            }
        )
    else:
        typer.echo(
            f"{done.path}  opset {done.opset}, {done.contract.nodes} nodes, "
            f"within {done.parity.relative_to_largest:.1e} of PyTorch"
        )
        if pixels_path:
            typer.echo(
                f"{pixels_path}  takes uint8 (batch, height, width, 3); `validate` measures it"
            )


def _show_needs(needs: ExportNeeds, as_json: bool) -> None:
    if as_json:
        print_json({**vars(needs), "fits": needs.fits})
        return
    typer.echo(f"{needs.parameters / 1e6:.1f} M parameters")
    for what, needed, there in (
        ("memory", needs.memory_bytes, needs.available_memory_bytes),
        ("disk", needs.disk_bytes, needs.free_disk_bytes),
    ):
        enough = "enough" if needed <= there else "NOT enough"
        typer.echo(
            f"{what:7}needs about {needed / 1e9:5.1f} GB, {there / 1e9:5.1f} GB there: {enough}"
        )


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise BadInput(
            f"--image-size {text} is not a height and a width.",
            "Write HxW in pixels: --image-size 576x960",
        )
    return int(parts[0]), int(parts[1])


def _parse_windows(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise BadInput(
            f"--window-size {text} is not a list of sides.",
            "Write one for each level: --window-size 7,7,12,6",
        )
    return tuple(map(int, parts))


@app.command(
    epilog="Examples: **hvt-deploy quantize --int8 --calib imagenet/train**, "
    "**hvt-deploy quantize --budget 0.5 --budget-data imagenet/train**"
)
def quantize(
    model: Model = None,
    precision: PrecisionOption = None,
    fp16: Fp16 = False,
    int8: Int8 = False,
    calib: Calib = None,
    calib_images: CalibImages = None,
    seed: Annotated[int | None, typer.Option()] = None,
    calibrator: Annotated[
        CalibratorChoice | None,
        typer.Option(help="Where INT8 clips."),
    ] = None,
    smooth_quant: Annotated[bool, typer.Option(help="Try to move outliers into weights.")] = True,
    bias_correction: Annotated[bool, typer.Option(help="Try to correct biases.")] = True,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A recipe that --budget wrote.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Points of top-1 that INT8 may lose: finds a recipe.")
    ] = None,
    budget_data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Its images; else of --calib.")
    ] = None,
    budget_images: Annotated[int | None, typer.Option(min=2, help="How many of them.")] = None,
    label_free: Annotated[
        bool, typer.Option("--label-free", help="Count agreement with FP32 instead.")
    ] = False,
    root: Root = DEFAULT_ROOT,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Make the FP16 and INT8 graphs of an exported model."""
    from hvt_deploy.core.config import load_recipe
    from hvt_deploy.evaluation.budget_record import BudgetRequest

    chosen = one_precision(precision, fp16, int8) or "int8"
    wanted = {"smooth-quant": smooth_quant, "bias-correction": bias_correction}
    recovery = None if all(wanted.values()) else [name for name, on in wanted.items() if on]
    flags = {
        "calibration.folder": calib,
        "calibration.images": calib_images,
        "calibration.seed": seed,
        "quantization": load_recipe(recipe) if recipe else None,
        "quantization.calibrator": calibrator,
        "quantization.recovery": recovery,
    }
    folder, config = find_exported(root, model, config_file, flags, ui := open_ui(as_json))
    if budget is not None:
        request = BudgetRequest(budget, budget_data, budget_images, label_free)
        _quantize_within(folder, config, request, ui, as_json)
        return
    from hvt_deploy.commands.quantize import GRAPHS
    from hvt_deploy.commands.quantize import quantize as run_quantize
    from hvt_deploy.core.workspace import INT8_CALIBRATION

    manifest = run_quantize(folder, config, chosen, ui)
    made = {key: str(folder.file(manifest.artifacts[key])) for key in GRAPHS[chosen]}
    if as_json:
        print_json(made)
        return
    if chosen != "fp16":
        _show_calibrators(manifest.artifacts[INT8_CALIBRATION].facts)
    typer.echo("\n".join(made.values()))


def _show_calibrators(facts: Mapping[str, Any]) -> None:
    from hvt_deploy.cli.console import open_console
    from hvt_deploy.evaluation.report.figures import decibels
    from hvt_deploy.evaluation.report.terminal import print_table

    by_role = facts["sqnr_by_role"]
    columns = [c for c in CALIBRATORS if any(c in found for found in by_role.values())]
    rows = [(role, *(decibels(found[c]) for c in columns)) for role, found in by_role.items()]
    if rows:
        print_table(
            "SQNR of INT8 products by role and calibrator", ("role", *columns), rows, open_console()
        )


def _quantize_within(
    folder: ModelFolder, config: RunConfig, request: BudgetRequest, ui: Ui, as_json: bool
) -> None:
    from hvt_deploy.cli.console import open_console
    from hvt_deploy.commands.flows import quantize_within
    from hvt_deploy.evaluation.report.accuracy_budget import (
        SENSITIVITY_COLUMNS,
        budget_sentence,
        sensitivity_rows,
    )
    from hvt_deploy.evaluation.report.terminal import print_table

    found = quantize_within(folder, config, request, ui)
    if as_json:
        print_json(
            {
                "recipe": found.recipe,
                "folder": found.folder,
                "holds": found.record.holds,
                **vars(found.record),
            }
        )
    else:
        print_table(
            "Sensitivity", SENSITIVITY_COLUMNS, sensitivity_rows(found.record), open_console()
        )
        typer.echo(
            f"{budget_sentence(found.record)}\n{found.folder / 'recipe.yaml'}\n{found.folder / 'budget.md'}"
        )
    if not found.record.holds:
        raise typer.Exit(1)


@app.command(
    epilog="Examples: **hvt-deploy inspect artifacts/fdvit_b/int8-…/fdvit_b.int8.onnx**, "
    "**hvt-deploy inspect fdvit_b**"
)
def inspect(
    target: Annotated[
        str, typer.Argument(help="An ONNX file, an engine, or an exported model: then all it has.")
    ],
    root: Root = DEFAULT_ROOT,
    as_json: AsJson = False,
) -> None:
    """Show nodes, parameters, MACs and precision by stage and role; of an engine what it really
    runs.
    """
    from hvt_deploy.cli.console import open_console
    from hvt_deploy.commands.inspect import COLUMNS, EngineFacts, graph_rows, inspect_target
    from hvt_deploy.evaluation.report.terminal import print_audit, print_table

    found = inspect_target(root, target)
    if as_json:
        print_json(found)
        return
    for name, facts in found.items():
        if isinstance(facts, EngineFacts):
            typer.echo(f"{name}: {facts.flavour} {facts.version}, {facts.device}")
            print_audit(facts.audit, open_console(), by_group=True)
        else:
            print_table(f"{name}, opset {facts.opset}", COLUMNS, graph_rows(facts), open_console())
