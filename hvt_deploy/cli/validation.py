"""Commands that compare and judge: validate, report, diff, sweep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hvt_deploy.cli.app import app, command_with_options
from hvt_deploy.cli.inputs import check_precisions, find_exported, parse_list
from hvt_deploy.cli.options import (
    DEFAULT_IMAGES,
    CalibrationImagesOption,
    CalibrationOption,
    ConfigOption,
    DeviceOption,
    ImagesOption,
    JsonOption,
    LabelsOption,
    LimitOption,
    MaxDropOption,
    ModelArgument,
    WorkspaceOption,
)
from hvt_deploy.cli.output import epilog_with_terms, open_ui, show_json, show_results, show_table
from hvt_deploy.core.types import DEFAULT_WORKSPACE, MAX_BATCH, MAX_THREADS, SubsetName

if TYPE_CHECKING:
    from hvt_deploy.commands.diff import Difference
    from hvt_deploy.core.ui import Ui


@dataclass(frozen=True)
class ValidateOptions:
    """Flags of `validate`."""

    model: ModelArgument = None
    data: ImagesOption = DEFAULT_IMAGES
    labels: LabelsOption = None
    subset: Annotated[
        SubsetName | None, typer.Option(help="The ImageNet benchmark set in --data.")
    ] = None
    limit: LimitOption = None
    seed: Annotated[int | None, typer.Option(help="Seed of the image sample.")] = None
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=MAX_BATCH, help="Batch size for measuring accuracy.")
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_THREADS, help="CPU threads of every backend (default: all)."),
    ] = None
    device: DeviceOption = None
    latency_batch: Annotated[
        list[int] | None,
        typer.Option(
            min=1, max=MAX_BATCH, help="Batch size to time. Repeatable; gates use the first."
        ),
    ] = None
    margin: Annotated[
        float | None, typer.Option(min=0, help="Top-1 within these points counts as equal.")
    ] = None
    max_top1_drop: MaxDropOption = None
    min_speedup: Annotated[
        float | None, typer.Option(help="Gate: smallest accepted speed-up over PyTorch.")
    ] = None
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Gate: largest accepted median latency.")
    ] = None
    backends: Annotated[
        str | None, typer.Option(help="Backends that must run, by runtime or row: ort,trt.")
    ] = None
    allow_cpu_nodes: Annotated[
        bool,
        typer.Option("--allow-cpu-nodes", help="Let ONNX Runtime on a GPU run nodes on the CPU."),
    ] = False
    record: Annotated[
        bool,
        typer.Option("--record", help="Keep PyTorch's logits, for machines without PyTorch."),
    ] = False
    keep: Annotated[
        int, typer.Option(min=1, help="Validations that are kept, this one among them.")
    ] = 10
    workspace: WorkspaceOption = DEFAULT_WORKSPACE
    config_file: ConfigOption = None
    as_json: JsonOption = False


@command_with_options(
    "validate",
    ValidateOptions,
    epilog=epilog_with_terms(
        "Example: **hvt-deploy validate --data imagenet/val --limit 1000 --max-top1-drop 0.5**",
        "agreement",
        "drop",
        "engine numerics",
        "McNemar p",
        "SQNR",
    ),
)
def validate(options: ValidateOptions) -> None:
    """Compare PyTorch, ONNX Runtime and TensorRT on the same images: accuracy, latency, gates."""
    from hvt_deploy.commands.validate import validate as run_validate

    ui, settings = open_ui(options.as_json), _validation_settings(options)
    folder, config = find_exported(
        options.workspace, options.model, options.config_file, settings, ui
    )
    data, labels, keep = options.data, options.labels, options.keep
    done = run_validate(folder, config, data, labels, ui, record=options.record, keep=keep)
    show_results(done.results, done.folder, options.as_json)
    raise typer.Exit(done.exit_code)


def _validation_settings(options: ValidateOptions) -> dict[str, object]:
    return {
        "validation.subset": options.subset,
        "validation.limit": options.limit,
        "validation.seed": options.seed,
        "validation.batch_size": options.batch_size,
        "validation.threads": options.threads,
        "validation.device": options.device,
        "validation.latency_batches": options.latency_batch or None,
        "validation.margin": options.margin,
        "validation.max_top1_drop": options.max_top1_drop,
        "validation.min_speedup": options.min_speedup,
        "validation.max_latency_ms": options.max_latency_ms,
        "validation.allow_cpu_nodes": options.allow_cpu_nodes or None,
        "validation.backends": parse_list(options.backends) if options.backends else None,
    }


@app.command(epilog="Example: **hvt-deploy report --format html --output report.html**")
def report(
    model: ModelArgument = None,
    form: Annotated[
        Literal["terminal", "markdown", "html", "json"],
        typer.Option("--format", help="Format of the report."),
    ] = "terminal",
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write to a file instead of stdout.")
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
) -> None:
    """Show the report of the last validation."""
    from hvt_deploy.commands.report import last_results, render

    folder, _ = find_exported(workspace, model, None, {}, open_ui(False))
    results = last_results(folder)
    if form == "terminal" and output is None:
        show_results(results, None, False)
    elif output is None:
        typer.echo(render(results, form))
    else:
        output.write_text(render(results, form), encoding="utf-8")
        typer.echo(str(output))


@dataclass(frozen=True)
class DiffOptions:
    """Flags of `diff`."""

    before: Annotated[
        Path | None, typer.Argument(metavar="A.json", help="results.json of a validation.")
    ] = None
    after: Annotated[
        Path | None, typer.Argument(metavar="B.json", help="results.json of a later one.")
    ] = None
    model: Annotated[
        str | None, typer.Option(help="Without files: the model, instead of the newest export.")
    ] = None
    workspace: WorkspaceOption = DEFAULT_WORKSPACE
    margin: Annotated[
        float, typer.Option(min=0, help="Accuracies within these points count as the same.")
    ] = 0.5
    as_json: JsonOption = False


@command_with_options(
    "diff",
    DiffOptions,
    epilog="Examples: **hvt-deploy diff**, **hvt-deploy diff yesterday.json today.json**",
)
def diff(options: DiffOptions) -> None:
    """Show the proven changes between two validations, without files between a model's last two;
    exit 1 where one is for the worse.
    """
    from hvt_deploy.commands.diff import compare_last_two
    from hvt_deploy.commands.diff import diff as compare

    ui = open_ui(options.as_json)
    if options.before is None:
        folder, _ = find_exported(options.workspace, options.model, None, {}, ui)
        found = compare_last_two(folder, options.margin)
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


@dataclass(frozen=True)
class SweepOptions:
    """Flags of `sweep`."""

    models: Annotated[
        str,
        typer.Option(
            metavar="PATTERNS", help="Model names, wildcards or timm:NAME, comma-separated."
        ),
    ]
    precisions: Annotated[
        str, typer.Option(metavar="LIST", help="Precisions, comma-separated.")
    ] = "fp32,fp16,int8"
    data: ImagesOption = DEFAULT_IMAGES
    labels: LabelsOption = None
    calib: CalibrationOption = None
    calib_images: CalibrationImagesOption = None
    limit: LimitOption = None
    device: DeviceOption = None
    weights: Annotated[
        str | None, typer.Option(help="`auto`, `official` or `random`, for every model.")
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
    epilog=r"Example: **hvt-deploy sweep --models 'fdvit_\*,faster_vit_0\*' --data imagenet/val**",
)
def sweep(options: SweepOptions) -> None:
    """Export, quantize, build and validate many models; continues after failures, resumes."""
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
    done = run_sweep(
        patterns,
        check_precisions(parse_list(options.precisions)),
        options.data,
        options.labels,
        settings,
        options.workspace,
        options.output,
        open_ui(options.as_json),
    )
    show_results(done.results, done.folder, options.as_json)
    raise typer.Exit(done.exit_code)
