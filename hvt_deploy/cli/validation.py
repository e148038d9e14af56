"""Commands that measure and judge: validate, report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hvt_deploy.cli.app import command, command_with_options
from hvt_deploy.cli.help import choices, epilog
from hvt_deploy.cli.inputs import parse_list
from hvt_deploy.cli.options import (
    NO_GATE,
    ClassNamesOption,
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
from hvt_deploy.cli.output import open_ui, show_results
from hvt_deploy.core.files import write_whole, writing_to
from hvt_deploy.core.types import (
    DEFAULT_IMAGES,
    DEFAULT_WORKSPACE,
    MAX_BATCH,
    MAX_THREADS,
    SubsetName,
)

if TYPE_CHECKING:
    from hvt_deploy.commands.exported_model import Model
    from hvt_deploy.commands.validated import Validated

ReportFormat = Literal["terminal", "markdown", "html", "json"]
FormatOption = Annotated[
    ReportFormat,
    typer.Option("--format", metavar=choices(ReportFormat), help="Format of the report."),
]
ReportFileOption = Annotated[
    Path | None, typer.Option(metavar="FILE", show_default="the terminal", help="File to write.")
]


@dataclass(frozen=True)
class ValidateOptions:
    """Flags of `validate`."""

    model: ModelArgument = None
    data: ImagesOption = DEFAULT_IMAGES
    labels: LabelsOption = None
    subset: Annotated[
        SubsetName | None,
        typer.Option(
            metavar=choices(SubsetName),
            show_default="all classes",
            help="The ImageNet benchmark set in --data.",
        ),
    ] = None
    limit: LimitOption = None
    seed: Annotated[
        int | None, typer.Option(metavar="N", show_default="0", help="Seed of the image sample.")
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MAX_BATCH,
            show_default="8",
            help="Batch size for measuring accuracy.",
        ),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MAX_THREADS,
            show_default="OMP_NUM_THREADS, else every processor",
            help="CPU threads of every backend.",
        ),
    ] = None
    device: DeviceOption = None
    latency_batch: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MAX_BATCH,
            show_default="1",
            help="Batch size to time. Repeatable; gates use the first.",
        ),
    ] = None
    margin: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            min=0,
            show_default="0.5",
            help="Top-1 within these points counts as equal.",
        ),
    ] = None
    max_top1_drop: MaxDropOption = None
    min_speedup: Annotated[
        float | None,
        typer.Option(
            metavar="TIMES",
            show_default=NO_GATE,
            help="Gate: smallest accepted speed-up over PyTorch.",
        ),
    ] = None
    max_latency_ms: Annotated[
        float | None,
        typer.Option(
            metavar="MS", show_default=NO_GATE, help="Gate: largest accepted median latency."
        ),
    ] = None
    backends: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            show_default="all that can run",
            help="Backends that must run, by runtime or row: ort,trt.",
        ),
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
        int,
        typer.Option(metavar="N", min=1, help="Validations that are kept, this one among them."),
    ] = 10
    class_names: ClassNamesOption = None
    workspace: WorkspaceOption = DEFAULT_WORKSPACE
    config_file: ConfigOption = None
    as_json: JsonOption = False


@command_with_options(
    "validate",
    ValidateOptions,
    "Judge and compare",
    epilog(
        "validate --data imagenet/val --limit 1000 --max-top1-drop 0.5",
        "validate --data photos --labels labels.txt",
        "validate --data imagenet/val --latency-batch 1 --latency-batch 8",
        terms=("agreement", "drop", "engine numerics", "McNemar p", "SQNR"),
    ),
)
def validate(options: ValidateOptions) -> None:
    """Compare all backends on the same images: accuracy, latency.

    Gates (--max-top1-drop, --min-speedup, --max-latency-ms) set the exit code: 0 only where the
    whole confidence interval is within the limit.
    """
    from hvt_deploy.commands.api import open as open_model

    model = open_model(
        options.model,
        workspace=options.workspace,
        class_names=options.class_names,
        config=options.config_file,
        progress=open_ui(options.as_json),
    )
    done = _validate(model, options)
    show_results(done.results, done.folder, options.as_json)
    raise typer.Exit(done.exit_code)


def _validate(model: Model, options: ValidateOptions) -> Validated:
    return model.validate(
        options.data,
        labels=options.labels,
        subset=options.subset,
        limit=options.limit,
        seed=options.seed,
        batch_size=options.batch_size,
        threads=options.threads,
        device=options.device,
        latency_batches=options.latency_batch or None,
        margin=options.margin,
        max_top1_drop=options.max_top1_drop,
        min_speedup=options.min_speedup,
        max_latency_ms=options.max_latency_ms,
        backends=parse_list(options.backends) if options.backends else None,
        allow_cpu_nodes=options.allow_cpu_nodes,
        record=options.record,
        keep=options.keep,
    )


@command(
    "report",
    "Judge and compare",
    epilog("report", "report fdvit_b --format html --output report.html"),
)
def report(
    model: ModelArgument = None,
    form: FormatOption = "terminal",
    output: ReportFileOption = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
) -> None:
    """Show the report of the last validation."""
    from hvt_deploy.commands.api import open as open_model
    from hvt_deploy.commands.report import render

    results = open_model(model, workspace=workspace, progress=open_ui(False)).results
    if form == "terminal" and output is None:
        show_results(results, None, False)
    elif output is None:
        typer.echo(render(results, form))
    else:
        with writing_to(output):
            write_whole(output, render(results, form))
        typer.echo(str(output))
