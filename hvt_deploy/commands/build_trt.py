"""`build-trt`: an ONNX artifact -> a strongly typed engine with its audit and passport."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hvt_deploy.commands.build_target import Target, find_target
from hvt_deploy.commands.built_engine import Built, find_built
from hvt_deploy.commands.engine_costs import BuiltPlan, count_costs, sum_up
from hvt_deploy.core.engine_facts import EngineFacts
from hvt_deploy.core.errors import CheckFailed, MissingEnvironment, ToolFailure
from hvt_deploy.core.leftovers import name_timing_cache
from hvt_deploy.core.manifest import Manifest, engine_key
from hvt_deploy.core.run_config import RunConfig
from hvt_deploy.core.types import Precision
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.evaluation.report.engine_costs import describe_costs
from hvt_deploy.graph.analysis.engine_audit import EngineAudit
from hvt_deploy.graph.analysis.engine_cost import ProfileCost
from hvt_deploy.graph.analysis.node_facts import NodeFacts, read_facts
from hvt_deploy.graph.storage import load_onnx
from hvt_deploy.runtime.tensorrt.audit import audit_layers
from hvt_deploy.runtime.tensorrt.build import BuildOutcome, build_engine
from hvt_deploy.runtime.tensorrt.flavours import format_engine_tag
from hvt_deploy.runtime.tensorrt.passport import make_passport
from hvt_deploy.runtime.tensorrt.plan import (
    BuildPlan,
    name_engine_file,
)

_CALIBRATION_FILE = "calibration.json"


def build_trt(
    folder: ModelFolder,
    config: RunConfig,
    precision: Precision,
    ui: Ui,
    min_int8: float | None = None,
    *,
    force: bool = False,
) -> Built:
    """Make the graphs of `precision` where they are not there yet, then `build_from_graph`."""
    if precision != "fp32":  # which is there since the export
        from hvt_deploy.commands.quantize import quantize

        quantize(folder, config, precision, ui)
    return build_from_graph(folder, config, precision, ui, min_int8, force=force)


def build_engine_if_possible(
    folder: ModelFolder, config: RunConfig, precision: Precision, ui: Ui
) -> None:
    """Build an engine from graphs that are there.

    Where no engine can be built it warns: that is no failure, `validate` skips the engine as well.
    """
    try:
        built = build_from_graph(folder, config, precision, ui)
        if built.before:
            return
        ui.say(
            f"Built {built.path}: {built.audit.kernels} kernels, "
            f"{built.audit.layers.int8} INT8 layers"
        )
        for line in describe_costs(precision, built.costs):
            ui.say(line)
    except MissingEnvironment as error:
        ui.warn(f"No {precision} engine: {error.message} {error.hint}")


def build_from_graph(
    folder: ModelFolder,
    config: RunConfig,
    precision: Precision,
    ui: Ui,
    min_int8: float | None = None,
    *,
    force: bool = False,
) -> Built:
    """Build the engine of `precision` from its graph, which must be there.

    One that was built from the same inputs is taken, unless `force` asks for another build.
    Raises MissingEnvironment where no library can build here, ToolFailure naming the node that was
    refused, CheckFailed for an engine labelled INT8 of which less than `min_int8` of the MACs with
    Q/DQ (or nothing) is INT8; that engine is not kept.
    """
    with folder.lock():
        manifest = folder.read()
        target = find_target(config, manifest)
        onnx_path = folder.open_artifact(manifest, precision)
        before = find_built(folder, manifest, precision, target, config.engine.workspace_mib)
        if before is None or force:
            return _build(folder, manifest, config, precision, target, onnx_path, min_int8, ui)
        ui.say(
            f"Built before, from the same graph with the same settings: {before.path.name}. "
            "hvt-deploy build-trt --force builds it again."
        )
        if precision.startswith("int8"):
            name, nodes = before.path.name, _read_facts(onnx_path, ui)
            check_int8(name, before.audit, nodes, min_int8, "It was built before, and stays.")
        return before


def _build(
    folder: ModelFolder,
    manifest: Manifest,
    config: RunConfig,
    precision: Precision,
    target: Target,
    onnx_path: Path,
    min_int8: float | None,
    ui: Ui,
) -> Built:
    """Build the engine and make it an artifact; the folder is locked."""
    key = engine_key(precision, target.tag)
    with folder.staging() as staged:
        name = name_engine_file(folder.slug, precision, target.tag)
        library = format_engine_tag(target.flavour, target.capabilities)
        cache = folder.path / name_timing_cache(library)
        plan = _make_plan(onnx_path, staged / name, target, config, cache)
        title = f"Building the {precision} engine with {target.flavour.title}"
        with ui.progress(title) as progress:
            outcome = build_engine(plan, progress)
        for note in outcome.notes:
            ui.say(note)
        facts = _read_facts(onnx_path, ui)
        audit = audit_layers(outcome.layers, facts)
        if precision.startswith("int8"):
            check_int8(plan.engine.name, audit, facts, min_int8)
        costs = count_costs(folder, manifest, precision, BuiltPlan(plan, outcome, facts), ui)
        calibration = _calibration(manifest, precision)
        passport = make_passport(plan, outcome, target.gpus, precision, audit, calibration, costs)
        passport.write(plan.engine)
        manifest = folder.add(
            manifest,
            key,
            staged,
            plan.engine.name,
            _remake(folder.slug, precision, target),
            facts=_describe_engine(precision, plan, outcome, target, costs),
            parents=(precision,),
        )
    return Built(
        folder.file(manifest.artifacts[key]),
        precision,
        target.flavour.title,
        target.capabilities,
        outcome.seconds,
        audit,
        costs,
        ahead_of_time=not target.gpus,
    )


def _make_plan(
    onnx: Path, engine: Path, target: Target, config: RunConfig, timing_cache: Path
) -> BuildPlan:
    return BuildPlan(
        onnx=onnx,
        engine=engine,
        flavour=target.flavour.name,
        compute_capabilities=target.capabilities,
        profiles=target.profiles,
        workspace_mib=config.engine.workspace_mib,
        timing_cache=timing_cache,
    )


def check_int8(
    engine: str,
    audit: EngineAudit,
    nodes: Sequence[NodeFacts],
    min_int8: float | None,
    fate: str = "The engine was not kept.",
) -> None:
    """Raise CheckFailed, naming the layers, unless an INT8 engine is as far INT8 as its graph.

    Without `min_int8` something must be; an engine whose layers cannot be read passes then. Where
    the MACs are not known a single INT8 layer is something. `fate` says what became of the engine.
    """
    unknown = not (audit.kernels and nodes)
    if unknown and min_int8 is None and (not audit.kernels or audit.layers.int8):
        return
    if unknown and min_int8 is not None:
        why = (
            "the MACs of its graph are not known" if audit.kernels else "its layers cannot be read"
        )
        raise CheckFailed(
            f"{engine} is labelled INT8, but its INT8 share is unknown: {why}. {fate}",
            "Build it without --min-int8.",
        )
    if audit.int8_share >= (min_int8 or 0) and audit.quantized_int8_macs:
        return
    found = sorted(audit.not_int8, key=lambda layer: -layer.macs)
    names = [f"{n.node}: {n.precision}, {n.macs / 1e6:.1f} M MACs" for n in found]
    if not audit.quantized_macs:
        names = [f"{n.name}: no Q/DQ, {n.macs / 1e6:.1f} M MACs" for n in nodes if n.macs]
    needed = f"{min_int8:.1%}" if min_int8 is not None else "more than nothing"
    raise CheckFailed(
        f"{engine} is labelled INT8, but of the MACs that carry Q/DQ in its graph "
        f"{audit.int8_share:.1%} run as INT8 ({audit.int8_share_of_all:.1%} of all MACs); "
        f"expected {needed}. {fate} Not INT8:\n" + "\n".join(f"  {name}" for name in names),
        "Leave out of the recipe what does not run as INT8 (hvt-deploy quantize --recipe FILE), "
        "or lower --min-int8.",
    )


def _read_facts(onnx: Path, ui: Ui) -> tuple[NodeFacts, ...]:
    try:
        return read_facts(load_onnx(onnx, weights=False))
    except ToolFailure as error:
        ui.warn(f"MACs are not in the audit. {error.message}")
        return ()


def _calibration(manifest: Manifest, precision: str) -> str:
    """The hash of the list of calibration images behind the graph of `precision`; "" for none."""
    parents = (manifest.artifacts[key] for key in manifest.artifacts[precision].parents)
    return next((p.files[_CALIBRATION_FILE] for p in parents if _CALIBRATION_FILE in p.files), "")


def _describe_engine(
    precision: Precision,
    plan: BuildPlan,
    outcome: BuildOutcome,
    target: Target,
    costs: Sequence[ProfileCost],
) -> EngineFacts:
    return EngineFacts(
        precision=precision,
        flavour=outcome.flavour.name,
        version=outcome.flavour.version,
        compute_capabilities=plan.compute_capabilities,
        gpu=target.gpus[0].name if target.gpus else "",
        profiles=tuple(profile.batches for profile in plan.profiles),
        build_s=outcome.seconds,
        workspace_mib=plan.workspace_mib,
        costs=tuple(map(sum_up, costs)),
    )


def _remake(slug: str, precision: Precision, target: Target) -> str:
    """The command that builds the same engine again."""
    flags = [f"--precision {precision}", *(f"--profile {profile}" for profile in target.profiles)]
    if target.flavour.name == "tensorrt_rtx":
        flags += [f"--compute-capability {capability}" for capability in target.capabilities]
    flags.append(f"--flavour {'rtx' if target.flavour.name == 'tensorrt_rtx' else 'tensorrt'}")
    return f"hvt-deploy build-trt {slug} {' '.join(flags)}"
