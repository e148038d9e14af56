"""What is compared and judged: validate, report, diff, diagnose, sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hvt_deploy.cli.app import app
from hvt_deploy.cli.options import (
    DEFAULT_ROOT,
    AsJson,
    Calib,
    CalibImages,
    ConfigFile,
    Model,
    Root,
    find_exported,
    named_precisions,
    open_ui,
    print_json,
    show_results,
)
from hvt_deploy.core.types import Device, SubsetName

if TYPE_CHECKING:
    pass


@app.command(
    epilog="Example: **hvt-deploy validate --data imagenet/val --limit 1000 --max-top1-drop 0.5**"
)
def validate(
    model: Model = None,
    data: Annotated[Path, typer.Option(metavar="DIR", help="Images in class folders.")] = Path(
        "imagenet/val"
    ),
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="`file label` lines for a flat folder.")
    ] = None,
    subset: Annotated[
        SubsetName | None,
        typer.Option(help="Which benchmark set DIR is."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="A class-stratified sample of this size.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sample.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at a time.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of every backend.")
    ] = None,
    latency_batch: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Batch size to time; again for more, the first for gates."),
    ] = None,
    margin: Annotated[
        float | None, typer.Option(min=0, help="Points of top-1 that count as equal.")
    ] = None,
    max_top1_drop: Annotated[
        float | None, typer.Option(help="Gate: points of top-1 that may be lost.")
    ] = None,
    min_speedup: Annotated[
        float | None, typer.Option(help="Gate: times as fast as PyTorch.")
    ] = None,
    max_latency_ms: Annotated[float | None, typer.Option(help="Gate: median latency.")] = None,
    backends: Annotated[
        str | None, typer.Option(help="What must run, by runtime or row: ort,trt.")
    ] = None,
    allow_cpu_nodes: Annotated[
        bool, typer.Option("--allow-cpu-nodes", help="ONNX Runtime on a GPU may use the CPU.")
    ] = False,
    record: Annotated[
        bool, typer.Option("--record", help="Keep PyTorch's logits for machines without it.")
    ] = False,
    root: Root = DEFAULT_ROOT,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare PyTorch, ONNX Runtime and TensorRT on the same images: accuracy, latency, gates."""
    from hvt_deploy.commands.validate import validate as run_validate

    settings = {
        "subset": subset,
        "limit": limit,
        "seed": seed,
        "batch_size": batch_size,
        "threads": threads,
        "latency_batches": latency_batch or None,
        "margin": margin,
        "max_top1_drop": max_top1_drop,
        "min_speedup": min_speedup,
        "max_latency_ms": max_latency_ms,
        "allow_cpu_nodes": allow_cpu_nodes or None,
        "backends": [b.strip() for b in backends.split(",")] if backends else None,
    }
    flags = {f"validation.{name}": value for name, value in settings.items()}
    folder, config = find_exported(root, model, config_file, flags, ui := open_ui(as_json))
    done = run_validate(folder, config, data, labels, ui, record=record)
    show_results(done.results, done.folder, as_json)
    raise typer.Exit(done.exit_code)


@app.command(epilog="Example: **hvt-deploy report --format html --output report.html**")
def report(
    model: Model = None,
    form: Annotated[
        Literal["terminal", "markdown", "html", "json"], typer.Option("--format")
    ] = "terminal",
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write here instead of stdout.")
    ] = None,
    root: Root = DEFAULT_ROOT,
) -> None:
    """Show the last validation again."""
    from hvt_deploy.commands.report import last_results, render

    folder, _ = find_exported(root, model, None, {}, open_ui(False))
    results = last_results(folder)
    if form == "terminal" and output is None:
        show_results(results, None, False)
    elif output is None:
        typer.echo(render(results, form))
    else:
        output.write_text(render(results, form), encoding="utf-8")
        typer.echo(str(output))


@app.command(epilog="Example: **hvt-deploy diff yesterday.json today.json**")
def diff(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="results.json of a validation.")],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="results.json of a later one.")],
    as_json: AsJson = False,
) -> None:
    """Tell what changed between two validations, beyond chance; exit 1 if something became worse."""
    from hvt_deploy.cli.console import open_console
    from hvt_deploy.commands.diff import diff as run_diff
    from hvt_deploy.evaluation.report.terminal import print_table

    found, ui = run_diff(before, after), open_ui(as_json)
    if as_json:
        print_json(found)
    else:
        for note in found.notes:
            ui.warn(note)
        rows = [(c.backend, c.what, c.before, c.after, c.outcome, c.note) for c in found.changes]
        print_table(
            "Changes",
            ("backend", "what", "before", "after", "outcome", "note"),
            rows,
            open_console(),
        )
    raise typer.Exit(1 if found.regressed else 0)


@app.command(epilog="Example: **hvt-deploy diagnose --graph int8 --data imagenet/val**")
def diagnose(
    model: Model = None,
    graph: Annotated[
        str | None, typer.Option(help="fp32, fp16, int8 ... or an ONNX file; without it all.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images; default: the calibration's.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where ONNX Runtime runs.")] = "cpu",
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="What shows a fault goes here.")
    ] = Path("diagnosis"),
    replay: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run what was written there again.")
    ] = None,
    root: Root = DEFAULT_ROOT,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Find the first module where ONNX parts from PyTorch, or FP16 and INT8 from FP32; exit 1 if
    there is one.
    """
    from hvt_deploy.cli.console import open_console
    from hvt_deploy.commands.diagnose import diagnose as run_diagnose
    from hvt_deploy.evaluation.report.terminal import print_table

    if replay is not None:
        raise typer.Exit(_replay(replay, as_json))
    folder, config = find_exported(root, model, config_file, {}, ui := open_ui(as_json))
    found = run_diagnose(folder, config, graph, data, device, output, ui)
    if as_json:
        print_json(found)
    else:
        rows = [
            (
                d.candidate,
                d.reference,
                str(len(d.modules)),
                d.worst.path,
                f"{d.worst.own_error:.1e}",
                f"{d.limit:g}",
                f"{d.logits_error:.1e}",
            )
            for d in found
        ]
        columns = (
            "graph",
            "beside",
            "modules",
            "largest own error at",
            "own error",
            "allowed",
            "error of logits",
        )
        print_table(folder.slug, columns, rows, open_console())
        for one in found:
            typer.echo(one.sentence)
            if one.folder:
                typer.echo(f"  Reproduce: hvt-deploy diagnose --replay {one.folder}")
    raise typer.Exit(1 if any(one.jump for one in found) else 0)


def _replay(folder: Path, as_json: bool) -> int:
    from hvt_deploy.commands.diagnose import replay

    fault, error = replay(folder)
    if as_json:
        print_json({"fault": fault, "own_error": error})
    else:
        was = fault.module.own_error
        typer.echo(
            f"{fault.candidate}, {fault.module.path} ({len(fault.nodes)} nodes): off {fault.reference} by "
            f"{error:.1e}, {fault.limit:g} allowed; {was:.1e} when it was found."
        )
    return 0 if error <= fault.limit else 1


@app.command(
    epilog="Example: **hvt-deploy sweep --models 'fdvit_*,faster_vit_0*' --data imagenet/val --limit 1000**"
)
def sweep(
    models: Annotated[
        str,
        typer.Option(metavar="PATTERNS", help="Names, wildcards, timm:NAME, with commas between."),
    ],
    precisions: Annotated[
        str, typer.Option(metavar="LIST", help="fp32, fp16, int8, int8-fp32.")
    ] = "fp32,fp16,int8",
    data: Annotated[Path, typer.Option(metavar="DIR", help="Images in class folders.")] = Path(
        "imagenet/val"
    ),
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="`file label` lines for a flat folder.")
    ] = None,
    calib: Calib = None,
    calib_images: CalibImages = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="A class-stratified sample of this size.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="auto, official or random.")] = None,
    max_top1_drop: Annotated[
        float | None, typer.Option(help="Gate: points of top-1 that may be lost.")
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="The report of all goes here.")
    ] = Path("sweep"),
    root: Root = DEFAULT_ROOT,
    as_json: AsJson = False,
) -> None:
    """Export, quantize, build and validate many models, on after failures; one report of all. Run
    again, it resumes.
    """
    from hvt_deploy.commands.flows import sweep as run_sweep

    flags = {
        "calibration.folder": calib,
        "calibration.images": calib_images,
        "validation.limit": limit,
        "export.weights": weights,
        "validation.max_top1_drop": max_top1_drop,
    }
    patterns = [pattern.strip() for pattern in models.split(",") if pattern.strip()]
    chosen = named_precisions([name.strip() for name in precisions.split(",")])
    done = run_sweep(patterns, chosen, data, labels, flags, root, output, open_ui(as_json))
    show_results(done.results, done.folder, as_json)
    raise typer.Exit(done.exit_code)
