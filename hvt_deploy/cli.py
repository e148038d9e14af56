"""The command line: one command per verb. It reads flags, calls a step or a flow, shows what came back.

Logs and progress go to stderr, results to stdout. Nothing heavy is imported before a verb needs it.
"""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from hvt_deploy import __version__
from hvt_deploy.errors import BadInput, HvtDeployError

if TYPE_CHECKING:
    from hvt_deploy.budget import BudgetRequest
    from hvt_deploy.config import RunConfig
    from hvt_deploy.flows import Attempt
    from hvt_deploy.needs import ExportNeeds
    from hvt_deploy.results import Results
    from hvt_deploy.steps.build_trt import Built
    from hvt_deploy.ui import Ui
    from hvt_deploy.workspace import ModelFolder

Model = Annotated[str | None, typer.Argument(help="Exported model; without it the newest export.")]
DEFAULT_ROOT = Path("artifacts")
SECONDS_TO_INSIST = 2.0
Root = Annotated[Path, typer.Option("--workspace", metavar="DIR", help="Folder of exported models.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Configuration file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the record as JSON.")]
Calib = Annotated[str | None, typer.Option("--calib", metavar="DIR", help="Folder of calibration images.")]
CalibImages = Annotated[int | None, typer.Option(min=1, help="Calibration images to draw.")]
PrecisionName = Literal["fp32", "fp16", "int8", "int8-fp32"]
Precision = Annotated[PrecisionName | None, typer.Option(help="Precision of the graph; `int8` has FP16 in the rest.")]
Fp16 = Annotated[bool, typer.Option("--fp16", help="Short for --precision fp16.")]
Int8 = Annotated[bool, typer.Option("--int8", help="Short for --precision int8.")]


@contextmanager
def _insisting_interrupts() -> Generator[None]:
    """Ctrl-C interrupts again after a while: libraries that try this and that swallow it now and then."""

    def interrupt(_signal: int, _frame: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_INSIST)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt), signal.signal(signal.SIGALRM, interrupt)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGALRM, before[1])


class _Verbs(TyperGroup):
    """Runs a verb; what it raises becomes one message and an exit code."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer's own context class has no stable home
        try:
            with _insisting_interrupts():
                return super().invoke(ctx)
        except HvtDeployError as error:
            if ctx.params["debug"]:
                traceback.print_exc()
            _show_error(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _ui(False).warn("Interrupted. What was finished before is unchanged.")
            raise typer.Exit(130) from None


app = typer.Typer(
    name="hvt-deploy",
    cls=_Verbs,
    help="Hierarchical vision transformers: PyTorch checkpoint, ONNX, FP16/INT8, TensorRT engine, verdict.",
    epilog="Start with: **hvt-deploy demo** (needs nothing), or **hvt-deploy export fdvit_b --opset 17**",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run() -> None:
    """Run the command line on `sys.argv`; a fault of this program exits with 4."""
    try:
        app()
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        bug = HvtDeployError(
            f"This is a fault in hvt-deploy: {type(error).__name__}: {error}", "Run again with --debug and report it."
        )
        _show_error(bug)
        sys.exit(bug.exit_code)


def _ui(quiet: bool) -> Ui:
    from hvt_deploy.report.terminal import TerminalUi, open_console

    return TerminalUi(open_console(stderr=True), quiet=quiet)


def _show_error(error: HvtDeployError) -> None:
    from hvt_deploy.report.terminal import open_console, print_error

    print_error(error, open_console(stderr=True))


def _print_json(value: object) -> None:
    from hvt_deploy.records import to_plain

    typer.echo(json.dumps(to_plain(value), indent=2))


def _exported(
    root: Path, model: str | None, config_file: Path | None, flags: Mapping[str, object], ui: Ui
) -> tuple[ModelFolder, RunConfig]:
    """The exported model a verb works on, and its configuration: flags over --config over that of the export."""
    from hvt_deploy.config import load_config, with_flags
    from hvt_deploy.workspace import find_model

    folder = find_model(root, model)
    if model is None:
        ui.say(f"Model: {folder.slug}, the newest export in {root}")
    config = load_config(config_file) if config_file else folder.read().config
    return folder, with_flags(config, flags)


def _precision(asked: PrecisionName | None, fp16: bool, int8: bool) -> PrecisionName | None:
    given: list[PrecisionName] = [*([asked] if asked else []), *(["fp16"] if fp16 else []), *(["int8"] if int8 else [])]
    if len(given) > 1:
        raise BadInput(
            f"Several precisions were given: {', '.join(given)}.", "Give one of --precision, --fp16, --int8."
        )
    return given[0] if given else None


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"hvt-deploy {__version__}")
        raise typer.Exit


@app.callback()
def main(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show version.")] = False,
) -> None:
    """Options of every verb."""


@app.command(epilog="Example: **hvt-deploy export fdvit_b --opset 17 --weights fdvit_b.pth**")
def export(
    model: Annotated[str, typer.Argument(help="A name that `hvt-deploy models` lists.")],
    opset: Annotated[int | None, typer.Option(help="ONNX opset, 17 to 22.")] = None,
    weights: Annotated[str | None, typer.Option(help="auto, official, random or a checkpoint's path.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Fixed batch size; without it any.")] = None,
    simplifier: Annotated[Literal["onnxsim", "onnxslim", "none"] | None, typer.Option(help="Simplifier.")] = None,
    class_names: Annotated[Path | None, typer.Option(metavar="FILE", help="Class names, one a line or JSON.")] = None,
    slug: Annotated[str | None, typer.Option("--as", metavar="NAME", help="Name in the workspace.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of random weights.")] = None,
    image_size: Annotated[str | None, typer.Option(metavar="HxW", help="Of faster_vit_*_any_res: 576x960.")] = None,
    window_size: Annotated[str | None, typer.Option(metavar="N,N,N,N", help="Windows of its four levels.")] = None,
    carrier_token_size: Annotated[int | None, typer.Option(min=1, help="Carrier tokens of a window, a side.")] = None,
    preprocess_in_graph: Annotated[
        bool, typer.Option("--preprocess-in-graph", help="Also a graph that takes uint8 pixels of any size.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what memory and disk it needs.")] = False,
    root: Root = DEFAULT_ROOT, config_file: ConfigFile = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Export a model to ONNX, proven equal to PyTorch."""
    from hvt_deploy.config import load_config, with_flags
    from hvt_deploy.environment import require
    from hvt_deploy.model_options import ModelOptions
    from hvt_deploy.models.registry import get_spec
    from hvt_deploy.steps.config import config_of
    from hvt_deploy.workspace import open_folder

    options = ModelOptions(_parse_windows(window_size), carrier_token_size)
    config = load_config(config_file) if config_file else config_of(model, _parse_size(image_size), options)
    flags = {"export.opset": opset, "export.weights": weights, "export.batch": batch, "export.simplifier": simplifier,
             "export.seed": seed, "export.preprocess_in_graph": preprocess_in_graph or None}  # fmt: skip
    require("torch", extra="export")
    from hvt_deploy.steps.export import export as run_export
    from hvt_deploy.steps.export import plan_export

    config = with_flags(config, flags)
    if slug is None:
        spec = get_spec(config.model, config.preprocessing.image_size, config.options)
        slug = Path(model).stem if model.endswith(".json") else spec.slug
    folder = open_folder(root, slug)
    if dry_run:
        _show_needs(plan_export(folder, config), as_json)
        return
    done = run_export(folder, config, class_names, _ui(as_json))
    pixels_path = str(done.pixels_path) if done.pixels_path else None
    if as_json:
        _print_json({"slug": done.slug, "path": str(done.path), "pixels_path": pixels_path, "opset": done.opset,
                     "parity": done.parity,
                     "nodes": done.contract.nodes, "untrained": done.untrained})  # fmt: skip
    else:
        typer.echo(f"{done.path}  opset {done.opset}, {done.contract.nodes} nodes, "
                   f"within {done.parity.relative_to_largest:.1e} of PyTorch")  # fmt: skip
        if pixels_path:
            typer.echo(f"{pixels_path}  takes uint8 (batch, height, width, 3); `validate` measures it")


def _show_needs(needs: ExportNeeds, as_json: bool) -> None:
    if as_json:
        _print_json({**vars(needs), "fits": needs.fits})
        return
    typer.echo(f"{needs.parameters / 1e6:.1f} M parameters")
    for what, needed, there in (("memory", needs.memory_bytes, needs.available_memory_bytes),
                                ("disk", needs.disk_bytes, needs.free_disk_bytes)):  # fmt: skip
        enough = "enough" if needed <= there else "NOT enough"
        typer.echo(f"{what:7}needs about {needed / 1e9:5.1f} GB, {there / 1e9:5.1f} GB there: {enough}")


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise BadInput(f"--image-size {text} is not a height and a width.", "Write HxW in pixels: --image-size 576x960")
    return int(parts[0]), int(parts[1])


def _parse_windows(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise BadInput(
            f"--window-size {text} is not a list of sides.", "Write one for each level: --window-size 7,7,12,6"
        )
    return tuple(map(int, parts))


@app.command(epilog="Examples: **hvt-deploy quantize --int8 --calib imagenet/train**, "
             "**hvt-deploy quantize --budget 0.5 --budget-data imagenet/train**")  # fmt: skip
def quantize(
    model: Model = None, precision: Precision = None, fp16: Fp16 = False, int8: Int8 = False,
    calib: Calib = None, calib_images: CalibImages = None, seed: Annotated[int | None, typer.Option()] = None,
    calibrator: Annotated[
        Literal["auto", "max", "percentile", "entropy", "mse"] | None, typer.Option(help="Where INT8 clips.")
    ] = None,
    smooth_quant: Annotated[bool, typer.Option(help="Try to move outliers into weights.")] = True,
    bias_correction: Annotated[bool, typer.Option(help="Try to correct biases.")] = True,
    recipe: Annotated[Path | None, typer.Option(metavar="FILE", help="A recipe that --budget wrote.")] = None,
    budget: Annotated[float | None, typer.Option(help="Points of top-1 that INT8 may lose: finds a recipe.")] = None,
    budget_data: Annotated[Path | None, typer.Option(metavar="DIR", help="Its images; else of --calib.")] = None,
    budget_images: Annotated[int | None, typer.Option(min=2, help="How many of them.")] = None,
    label_free: Annotated[bool, typer.Option("--label-free", help="Count agreement with FP32 instead.")] = False,
    root: Root = DEFAULT_ROOT, config_file: ConfigFile = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Make the FP16 and INT8 graphs of an exported model."""
    from hvt_deploy.budget import BudgetRequest
    from hvt_deploy.config import load_recipe

    chosen = _precision(precision, fp16, int8) or "int8"
    wanted = {"smooth-quant": smooth_quant, "bias-correction": bias_correction}
    recovery = None if all(wanted.values()) else [name for name, on in wanted.items() if on]
    flags = {"calibration.folder": calib, "calibration.images": calib_images, "calibration.seed": seed,
             "quantization": load_recipe(recipe) if recipe else None, "quantization.calibrator": calibrator,
             "quantization.recovery": recovery}  # fmt: skip
    folder, config = _exported(root, model, config_file, flags, ui := _ui(as_json))
    if budget is not None:
        request = BudgetRequest(budget, budget_data, budget_images, label_free)
        _quantize_within(folder, config, request, ui, as_json)
        return
    from hvt_deploy.steps.quantize import GRAPHS
    from hvt_deploy.steps.quantize import quantize as run_quantize

    manifest = run_quantize(folder, config, chosen, ui)
    made = {key: str(folder.file(manifest.artifacts[key])) for key in GRAPHS[chosen]}
    if as_json:
        _print_json(made)
        return
    if chosen != "fp16":
        _show_calibrators(manifest.artifacts["int8-calibration"].facts)
    typer.echo("\n".join(made.values()))


def _show_calibrators(facts: Mapping[str, Any]) -> None:
    from hvt_deploy.graph.thresholds import CALIBRATORS
    from hvt_deploy.report.figures import decibels
    from hvt_deploy.report.terminal import open_console, print_table

    by_role = facts["sqnr_by_role"]
    columns = [c for c in CALIBRATORS if any(c in found for found in by_role.values())]
    rows = [(role, *(decibels(found[c]) for c in columns)) for role, found in by_role.items()]
    if rows:
        print_table("SQNR of INT8 products by role and calibrator", ("role", *columns), rows, open_console())


@app.command(epilog="Examples: **hvt-deploy inspect artifacts/fdvit_b/int8-…/fdvit_b.int8.onnx**, "
             "**hvt-deploy inspect fdvit_b**")  # fmt: skip
def inspect(
    target: Annotated[str, typer.Argument(help="An ONNX file, an engine, or an exported model: then all it has.")],
    root: Root = DEFAULT_ROOT, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Show nodes, parameters, MACs and precision by stage and role; of an engine what it really runs."""
    from hvt_deploy.report.terminal import open_console, print_audit, print_table
    from hvt_deploy.steps.inspect import COLUMNS, EngineFacts, graph_rows, inspect_target

    found = inspect_target(root, target)
    if as_json:
        _print_json(found)
        return
    for name, facts in found.items():
        if isinstance(facts, EngineFacts):
            typer.echo(f"{name}: {facts.flavour} {facts.version}, {facts.device}")
            print_audit(facts.audit, open_console(), by_group=True)
        else:
            print_table(f"{name}, opset {facts.opset}", COLUMNS, graph_rows(facts), open_console())


def _quantize_within(folder: ModelFolder, config: RunConfig, request: BudgetRequest, ui: Ui, as_json: bool) -> None:
    from hvt_deploy.flows import quantize_within
    from hvt_deploy.report.budget import SENSITIVITY_COLUMNS, budget_sentence, sensitivity_rows
    from hvt_deploy.report.terminal import open_console, print_table

    found = quantize_within(folder, config, request, ui)
    if as_json:
        _print_json({"recipe": found.recipe, "folder": found.folder, "holds": found.record.holds, **vars(found.record)})
    else:
        print_table("Sensitivity", SENSITIVITY_COLUMNS, sensitivity_rows(found.record), open_console())
        typer.echo(f"{budget_sentence(found.record)}\n{found.folder / 'recipe.yaml'}\n{found.folder / 'budget.md'}")
    if not found.record.holds:
        raise typer.Exit(1)


@app.command(
    "build-trt",
    epilog="Examples: **hvt-deploy build-trt --int8 --calib imagenet/train --min-int8 0.9**, "
    "**hvt-deploy build-trt fdvit_b hvt_s_0 --fp16 --int8 --profile 1,8,32 --profile 1,1,1 --explain**",
)
def build_trt(
    models: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="Without one the newest export.")]
        = None,
    precision: Annotated[list[str] | None, typer.Option(metavar="fp32|fp16|int8|int8-fp32", help="Repeatable; `int8` "
                                                        "has FP16 in the rest.")] = None,
    fp16: Fp16 = False, int8: Int8 = False, calib: Calib = None, calib_images: CalibImages = None,
    flavour: Annotated[Literal["auto", "tensorrt", "rtx"] | None, typer.Option(help="TensorRT library.")] = None,
    compute_capability: Annotated[list[str] | None, typer.Option(help="Without a GPU: what to build for.")] = None,
    profile: Annotated[list[str] | None, typer.Option(metavar="MIN,OPT,MAX", help="Batch sizes; repeatable, all in "
                                                      "one engine.")] = None,
    min_int8: Annotated[float | None, typer.Option(min=0, max=1, help="Gate: share of the MACs with Q/DQ that must "
                                                   "run as INT8.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Only say what would be built.")] = False,
    root: Root = DEFAULT_ROOT, config_file: ConfigFile = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Build strongly typed TensorRT engines, quantizing first where that is needed, and audit their layers."""
    from hvt_deploy.engine.plan import parse_profile
    from hvt_deploy.flows import build_matrix

    profiles = [(p.min, p.opt, p.max) for p in map(parse_profile, profile)] if profile else None
    flags = {"calibration.folder": calib, "calibration.images": calib_images, "engine.flavour": flavour,
             "engine.compute_capabilities": compute_capability, "engine.profiles": profiles}  # fmt: skip
    asked = _precisions([*(precision or []), *(["fp16"] if fp16 else []), *(["int8"] if int8 else [])])
    ui = _ui(as_json)

    def open_model(name: str | None) -> tuple[ModelFolder, RunConfig]:
        return _exported(root, name, config_file, flags, ui)

    attempts = build_matrix(models or [None], asked, open_model, ui, min_int8, explain=explain)
    _show_attempts(attempts, as_json)
    raise typer.Exit(max(attempt.error.exit_code if attempt.error else 0 for attempt in attempts))


def _precisions(names: Sequence[str]) -> list[PrecisionName]:
    """Typer has no list of choices. They come out in the order in which they build on each other."""
    from hvt_deploy.config import PRECISIONS
    from hvt_deploy.errors import unknown_name

    for name in names:
        if name not in PRECISIONS:
            raise unknown_name("precision", name, PRECISIONS)
    return [name for name in PRECISIONS if name in names]


def _show_attempts(attempts: Sequence[Attempt], as_json: bool) -> None:
    """One build in full, or the reason why there is none; several as a table."""
    from hvt_deploy.report.terminal import open_console, print_table

    single = attempts[0] if len(attempts) == 1 else None
    if single and single.error:
        raise single.error
    if as_json:
        records = [_record_of(attempt) for attempt in attempts]
        _print_json(records[0] if single else records)
    elif single and single.built:
        _show_built(single.built)
    elif any(attempt.built for attempt in attempts):
        columns = ("model", "precision", "engine", "kernels", "MACs", "of Q/DQ INT8", "attention", "s")
        print_table("Builds", columns, map(_row_of, attempts), open_console())
    for attempt in () if as_json else attempts:
        if attempt.explained:
            print_table(f"{attempt.model} {attempt.precision}", ("", "plan"), attempt.explained.facts, open_console())
        elif attempt.error:
            _show_error(attempt.error)


def _show_built(built: Built) -> None:
    from hvt_deploy.report.terminal import open_console, print_audit

    typer.echo(str(built.path))
    print_audit(built.audit, open_console())
    if built.ahead_of_time:
        typer.echo(f"This engine runs only in {built.flavour} on RTX cards of compute capability "
                   f"{', '.join(built.compute_capabilities)}; for Jetson or TensorRT run build-trt there.")  # fmt: skip


def _record_of(attempt: Attempt) -> dict[str, object]:
    named: dict[str, object] = {"model": attempt.model, "precision": attempt.precision}
    if attempt.error:
        return {
            **named,
            "error": attempt.error.message,
            "hint": attempt.error.hint,
            "exit_code": attempt.error.exit_code,
        }
    if attempt.built:
        built = attempt.built
        return {**named, "path": str(built.path), "flavour": built.flavour, "audit": built.audit,
                "seconds": built.seconds}  # fmt: skip
    return {**named, **vars(attempt.explained)}


def _row_of(attempt: Attempt) -> tuple[str, ...]:
    from hvt_deploy.report.audit import quantized_share, split

    built = attempt.built
    if built is None:
        return attempt.model, attempt.precision, "failed, see below", *[""] * 5
    audit = built.audit
    return (
        attempt.model, attempt.precision, built.path.name, str(audit.kernels), split(audit.macs),
        quantized_share(audit), f"{audit.fused_attention}/{audit.attention_blocks}", f"{built.seconds:.0f}",
    )  # fmt: skip


@app.command(epilog="Example: **hvt-deploy validate --data imagenet/val --limit 1000 --max-top1-drop 0.5**")
def validate(
    model: Model = None,
    data: Annotated[Path, typer.Option(metavar="DIR", help="Images in class folders.")] = Path("imagenet/val"),
    labels: Annotated[Path | None, typer.Option(metavar="FILE", help="`file label` lines for a flat folder.")] = None,
    subset: Annotated[
        Literal["imagenet-a", "imagenet-r", "imagenet-v2"] | None, typer.Option(help="Which benchmark set DIR is.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="A class-stratified sample of this size.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sample.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at a time.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of every backend.")] = None,
    latency_batch: Annotated[int | None, typer.Option(min=1, help="Batch size of the latency measurement.")] = None,
    margin: Annotated[float | None, typer.Option(min=0, help="Points of top-1 that count as equal.")] = None,
    max_top1_drop: Annotated[float | None, typer.Option(help="Gate: points of top-1 that may be lost.")] = None,
    min_speedup: Annotated[float | None, typer.Option(help="Gate: times as fast as PyTorch.")] = None,
    max_latency_ms: Annotated[float | None, typer.Option(help="Gate: median latency.")] = None,
    backends: Annotated[str | None, typer.Option(help="What must run, by runtime or row: ort,trt.")] = None,
    allow_cpu_nodes: Annotated[bool, typer.Option("--allow-cpu-nodes", help="ONNX Runtime on a GPU may use the CPU.")]
        = False,
    record: Annotated[bool, typer.Option("--record", help="Keep PyTorch's logits for machines without it.")] = False,
    root: Root = DEFAULT_ROOT, config_file: ConfigFile = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Compare PyTorch, ONNX Runtime and TensorRT on the same images: accuracy, latency, gates."""
    from hvt_deploy.steps.validate import validate as run_validate

    settings = {"subset": subset, "limit": limit, "seed": seed, "batch_size": batch_size, "threads": threads,
                "latency_batch": latency_batch, "margin": margin, "max_top1_drop": max_top1_drop,
                "min_speedup": min_speedup, "max_latency_ms": max_latency_ms,
                "allow_cpu_nodes": allow_cpu_nodes or None,
                "backends": [b.strip() for b in backends.split(",")] if backends else None}  # fmt: skip
    flags = {f"validation.{name}": value for name, value in settings.items()}
    folder, config = _exported(root, model, config_file, flags, ui := _ui(as_json))
    done = run_validate(folder, config, data, labels, ui, record=record)
    _show_results(done.results, done.folder, as_json)
    raise typer.Exit(done.exit_code)


def _show_results(results: Results, folder: Path | None, as_json: bool) -> None:
    if as_json:
        _print_json(results)
        return
    from hvt_deploy.report.terminal import open_console, print_results

    print_results(results, open_console())
    if folder is not None:
        typer.echo(f"Report: {folder / 'report.html'}")


@app.command(epilog="Example: **hvt-deploy report --format html --output report.html**")
def report(
    model: Model = None,
    form: Annotated[Literal["terminal", "markdown", "html", "json"], typer.Option("--format")] = "terminal",
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write here instead of stdout.")] = None,
    root: Root = DEFAULT_ROOT,
) -> None:  # fmt: skip
    """Show the last validation again."""
    from hvt_deploy.steps.report import last_results, render

    folder, _ = _exported(root, model, None, {}, _ui(False))
    results = last_results(folder)
    if form == "terminal" and output is None:
        _show_results(results, None, False)
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
    from hvt_deploy.report.terminal import open_console, print_table
    from hvt_deploy.steps.diff import diff as run_diff

    found, ui = run_diff(before, after), _ui(as_json)
    if as_json:
        _print_json(found)
    else:
        for note in found.notes:
            ui.warn(note)
        rows = [(c.backend, c.what, c.before, c.after, c.outcome, c.note) for c in found.changes]
        print_table("Changes", ("backend", "what", "before", "after", "outcome", "note"), rows, open_console())
    raise typer.Exit(1 if found.regressed else 0)


@app.command(epilog="Example: **hvt-deploy diagnose --graph int8 --data imagenet/val**")
def diagnose(
    model: Model = None,
    graph: Annotated[str | None, typer.Option(help="fp32, fp16, int8 ... or an ONNX file; without it all.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Images; default: the calibration's.")] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where ONNX Runtime runs.")] = "cpu",
    output: Annotated[Path, typer.Option(metavar="DIR", help="What shows a fault goes here.")] = Path("diagnosis"),
    replay: Annotated[Path | None, typer.Option(metavar="DIR", help="Run what was written there again.")] = None,
    root: Root = DEFAULT_ROOT, config_file: ConfigFile = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Find the first module where ONNX parts from PyTorch, or FP16 and INT8 from FP32; exit 1 if there is one."""
    from hvt_deploy.report.terminal import open_console, print_table
    from hvt_deploy.steps.diagnose import diagnose as run_diagnose

    if replay is not None:
        raise typer.Exit(_replay(replay, as_json))
    folder, config = _exported(root, model, config_file, {}, ui := _ui(as_json))
    found = run_diagnose(folder, config, graph, data, device, output, ui)
    if as_json:
        _print_json(found)
    else:
        rows = [(d.candidate, d.reference, str(len(d.modules)), d.worst.path, f"{d.worst.own_error:.1e}",
                 f"{d.limit:g}", f"{d.logits_error:.1e}") for d in found]  # fmt: skip
        columns = ("graph", "beside", "modules", "largest own error at", "own error", "allowed", "error of logits")
        print_table(folder.slug, columns, rows, open_console())
        for one in found:
            typer.echo(one.sentence)
            if one.folder:
                typer.echo(f"  Reproduce: hvt-deploy diagnose --replay {one.folder}")
    raise typer.Exit(1 if any(one.jump for one in found) else 0)


def _replay(folder: Path, as_json: bool) -> int:
    from hvt_deploy.steps.diagnose import replay

    fault, error = replay(folder)
    if as_json:
        _print_json({"fault": fault, "own_error": error})
    else:
        was = fault.module.own_error
        typer.echo(f"{fault.candidate}, {fault.module.path} ({len(fault.nodes)} nodes): off {fault.reference} by "
                   f"{error:.1e}, {fault.limit:g} allowed; {was:.1e} when it was found.")  # fmt: skip
    return 0 if error <= fault.limit else 1


@app.command(epilog="Example: **hvt-deploy predict cat.jpg holiday/ --top 3**")
def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")],
    model: Annotated[str | None, typer.Option(help="Exported model; without it the newest export.")] = None,
    backend: Annotated[str, typer.Option(help="auto, ort, trt, pytorch, or a row of `validate`.")] = "auto",
    top: Annotated[int, typer.Option(min=1, help="Classes to show of each image.")] = 5,
    root: Root = DEFAULT_ROOT, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Classify images with an exported model."""
    from hvt_deploy.report.terminal import open_console, print_table
    from hvt_deploy.steps.predict import predict as run_predict

    done = run_predict(images, model, root, backend, top, _ui(as_json))
    if as_json:
        _print_json(done)
    else:
        rows = [(i.path, ", ".join(f"{k.name} {k.probability:.1%}" for k in i.labels) or i.error) for i in done.images]
        print_table(f"{done.model}, {done.backend}", ("image", "classes"), rows, open_console())
    raise typer.Exit(2 if any(image.error for image in done.images) else 0)


@app.command(epilog="Example: **hvt-deploy package fdvit_b --triton model_repository**")
def package(
    model: Model = None,
    triton: Annotated[Path, typer.Option(metavar="DIR", help="Write a Triton model repository here.")] = Path("triton"),
    onnx_backend: Annotated[Literal["onnxruntime", "python"], typer.Option(help="Triton's backend for ONNX files.")]
        = "onnxruntime",
    allow_untrained: Annotated[bool, typer.Option(help="Package random weights, to try a server.")] = False,
    root: Root = DEFAULT_ROOT, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Write an exported model as a folder that Triton Inference Server takes: image files in, class names out."""
    from hvt_deploy.steps.package import package_triton

    folder, _ = _exported(root, model, None, {}, ui := _ui(as_json))
    done = package_triton(folder, triton, onnx_backend, allow_untrained, ui)
    if as_json:
        _print_json(done)
    else:
        typer.echo(f"{done.folder}: {', '.join(done.models)}\nSend image files to the model {done.ensemble}.")
        if done.pixels_model:
            typer.echo(f"Send uint8 pixels (batch, height, width, 3) to the model {done.pixels_model}.")


@app.command(epilog="Example: **hvt-deploy bundle fdvit_b --output fdvit_b.tar**")
def bundle(
    model: Model = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: MODEL.tar.")] = None,
    allow_untrained: Annotated[bool, typer.Option(help="Bundle random weights, to try a device.")] = False,
    root: Root = DEFAULT_ROOT,
) -> None:
    """Write everything a device needs into one file: graphs, calibration, recorded reference, configuration."""
    from hvt_deploy.steps.bundle import bundle as run_bundle

    folder, _ = _exported(root, model, None, {}, ui := _ui(False))
    typer.echo(str(run_bundle(folder, output or Path(f"{folder.slug}.tar"), allow_untrained, ui)))


@app.command(epilog="Example, on a Jetson: **hvt-deploy deploy fdvit_b.tar --int8 --data imagenet/val**")
def deploy(
    file: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `hvt-deploy bundle` wrote.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="The images that were recorded.")] = Path("imagenet/val"),
    labels: Annotated[Path | None, typer.Option(metavar="FILE", help="`file label` lines for a flat folder.")] = None,
    precision: Precision = None, fp16: Fp16 = False, int8: Int8 = False,
    root: Root = DEFAULT_ROOT, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Unpack a bundle, build its engine for this device, validate it, write the report."""
    from hvt_deploy.flows import deploy as run_deploy

    done = run_deploy(file, root, _precision(precision, fp16, int8), data, labels, _ui(as_json))
    _show_results(done.results, done.folder, as_json)
    raise typer.Exit(done.exit_code)


@app.command(epilog="Example: **hvt-deploy sweep --models 'fdvit_*,faster_vit_0*' --data imagenet/val --limit 1000**")
def sweep(
    models: Annotated[str, typer.Option(metavar="PATTERNS", help="Names, wildcards, timm:NAME, with commas between.")],
    precisions: Annotated[str, typer.Option(metavar="LIST", help="fp32, fp16, int8, int8-fp32.")] = "fp32,fp16,int8",
    data: Annotated[Path, typer.Option(metavar="DIR", help="Images in class folders.")] = Path("imagenet/val"),
    labels: Annotated[Path | None, typer.Option(metavar="FILE", help="`file label` lines for a flat folder.")] = None,
    calib: Calib = None, calib_images: CalibImages = None,
    limit: Annotated[int | None, typer.Option(min=1, help="A class-stratified sample of this size.")] = None,
    weights: Annotated[str | None, typer.Option(help="auto, official or random.")] = None,
    max_top1_drop: Annotated[float | None, typer.Option(help="Gate: points of top-1 that may be lost.")] = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="The report of all goes here.")] = Path("sweep"),
    root: Root = DEFAULT_ROOT, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Export, quantize, build and validate many models, on after failures; one report of all. Run again, it resumes."""
    from hvt_deploy.flows import sweep as run_sweep

    flags = {"calibration.folder": calib, "calibration.images": calib_images, "validation.limit": limit,
             "export.weights": weights, "validation.max_top1_drop": max_top1_drop}  # fmt: skip
    patterns = [pattern.strip() for pattern in models.split(",") if pattern.strip()]
    chosen = _precisions([name.strip() for name in precisions.split(",")])
    done = run_sweep(patterns, chosen, data, labels, flags, root, output, _ui(as_json))
    _show_results(done.results, done.folder, as_json)
    raise typer.Exit(done.exit_code)


@app.command(epilog="Example: **hvt-deploy demo --output /tmp/demo**")
def demo(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where images, artifacts and reports go.")] = Path("demo"),
    family: Annotated[str, typer.Option(help="fdvit, faster_vit, dfvt or hvt.")] = "fdvit",
    as_json: AsJson = False,
) -> None:
    """Run everything on real data without a network: export, INT8, engine, validate on handwritten digits."""
    from hvt_deploy.environment import require

    for module, extra in {"torch": "export", "onnxruntime": "cpu", "sklearn": "demo"}.items():
        require(module, extra)
    from hvt_deploy.flows import run_demo

    done = run_demo(output, family, _ui(as_json))
    _show_results(done.results, done.folder, as_json)
    raise typer.Exit(done.exit_code)


@app.command(epilog="Example: **hvt-deploy models --verify faster_vit_0_224**")
def models(
    verify: Annotated[
        str | None, typer.Option(metavar="NAME", help="Compare a model with the official code's logits, here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the models: published accuracy, measured parameters and MACs, licences."""
    from hvt_deploy.report.terminal import open_console, print_table
    from hvt_deploy.steps.models import list_models, verify_model

    if verify is None:
        listed = list_models()
        if as_json:
            _print_json(listed)
        else:
            print_table("Models", tuple(listed[0].cells()), [tuple(m.cells().values()) for m in listed], open_console())
        return
    checks = verify_model(verify, _ui(as_json))
    if as_json:
        _print_json(checks)
    else:
        columns = ("official result", "form", "in", "error", "allowed", "")
        rows = [(c.golden, c.form, c.dtype, f"{c.error:.1e}", f"{c.allowed:.0e}", "ok" if c.passed else "DIFFERENT")
                for c in checks]  # fmt: skip
        print_table(f"{verify} against the official code", columns, rows, open_console())
    raise typer.Exit(0 if all(c.passed for c in checks) else 1)


@app.command()
def doctor(root: Root = DEFAULT_ROOT, as_json: AsJson = False) -> None:
    """Tell what works on this machine, and what is missing for the rest."""
    from hvt_deploy.report.terminal import open_console, print_table
    from hvt_deploy.steps.doctor import diagnose as look

    found = look(root)
    if as_json:
        _print_json(found)
        return
    console = open_console()
    print_table("This machine", ("what", "found"), list(found.facts.items()), console)
    rows = [(a.verb, "yes" if a.works else "no", a.why) for a in found.abilities]
    print_table("Will it work here?", ("verb", "works", "why"), rows, console)


@app.command(epilog="Example: **hvt-deploy config fdvit_b > my.yaml**")
def config(
    model: Annotated[str | None, typer.Argument(help="A name that `hvt-deploy models` lists.")] = None,
    all_models: Annotated[Path | None, typer.Option("--all", metavar="DIR", help="Write every model's here.")] = None,
) -> None:
    """Print a model's configuration: everything a run can set."""
    from hvt_deploy.config import dump_config
    from hvt_deploy.steps.config import config_of, write_configs

    if all_models is not None:
        typer.echo("\n".join(map(str, write_configs(all_models))))
    elif model is not None:
        typer.echo(dump_config(config_of(model)), nl=False)
    else:
        raise BadInput("No model was named.", "Give one: hvt-deploy config fdvit_b")
