"""Sections `tensorrt-rtx` and `tensorrt`: engines built for this GPU, run, compared and timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hvt_deploy.core.errors import BadInput, HvtDeployError, MissingEnvironment
from hvt_deploy.core.gpus import find_gpus
from hvt_deploy.core.types import FlavourChoice
from hvt_deploy.data.images import repeat_to
from hvt_deploy.evaluation.parity import compare_logits
from hvt_deploy.evaluation.verification.bound_timing import time_bound
from hvt_deploy.evaluation.verification.checks import CheckList, Fact, expect
from hvt_deploy.evaluation.verification.trtexec import time_with_trtexec
from hvt_deploy.evaluation.verification.verified_graphs import (
    ENGINE_PRECISIONS,
    IMAGES,
    EnginePrecision,
    VerifiedGraphs,
    compare_with_reference,
    prepare_graphs,
)
from hvt_deploy.graph.analysis.engine_cost import ProfileCost
from hvt_deploy.graph.analysis.node_facts import read_facts
from hvt_deploy.graph.storage import load_onnx
from hvt_deploy.runtime.tensorrt.audit import audit_layers
from hvt_deploy.runtime.tensorrt.build import build_engine
from hvt_deploy.runtime.tensorrt.cost import count_profile_cost
from hvt_deploy.runtime.tensorrt.flavours import FlavourInfo, format_engine_tag
from hvt_deploy.runtime.tensorrt.passport import (
    Machine,
    check_passport,
    make_passport,
    read_passport,
)
from hvt_deploy.runtime.tensorrt.plan import (
    BuildPlan,
    Profile,
    choose_flavour,
    name_engine_file,
)
from hvt_deploy.runtime.tensorrt.trtexec import write_trtexec_command

_PROFILES = (Profile(1, 1, 1), Profile(1, 8, 32))
_WORKSPACE_MIB = 4096
_TIMED_BATCHES = (1, 8, 32)
# The same engine and images in another order, and the engine's graph in ONNX Runtime with FP32 for
# FP16.
_REPEATED_SQNR_DB, _NUMERICS_SQNR_DB = 40.0, 25.0
# trtexec keeps two inferences in flight, which hides what lies between two launches.
_TRTEXEC_BATCH, _TRTEXEC_PROFILE, _TRTEXEC_TOLERANCE = 8, 1, 0.15


@dataclass(frozen=True)
class _BuiltEngine:
    """An engine that is on disk."""

    path: Path
    """The engine file; its passport is next to it."""
    for_this_card: bool
    """Whether it was built for this GPU's compute capability, or without one."""
    costs: tuple[ProfileCost, ...]
    """Its cost at OPT of each profile."""


def check_engines(checks: CheckList, asked: FlavourChoice, model: str, folder: Path) -> None:
    """Build an engine of each precision, run it in every profile, and time INT8 against FP16.

    Raises MissingEnvironment where the library is not installed.
    """
    flavour = choose_flavour(asked, gpu_present=True)
    graphs = prepare_graphs(model, folder)
    engines: dict[EnginePrecision, _BuiltEngine] = {}
    for precision in ENGINE_PRECISIONS:
        with checks.check(precision) as measured:
            engine = _build(flavour, graphs, precision, measured)
            _check_engine(graphs, engine, precision, measured)
            engines[precision] = engine
    with checks.check("numerics of the INT8 graph") as measured:
        _compare_with_graph(graphs, _get(engines, "int8"), measured)
    for batch in _TIMED_BATCHES:
        with checks.check(f"INT8 against FP16, batch {batch}") as measured:
            _time_engines(graphs, engines, batch, measured)
    if flavour.name == "tensorrt":
        with checks.check("latency against trtexec") as measured:
            _compare_with_trtexec(graphs, _get(engines, "fp16"), flavour, measured)


def _build(
    flavour: FlavourInfo,
    graphs: VerifiedGraphs,
    precision: EnginePrecision,
    measured: dict[str, Fact],
) -> _BuiltEngine:
    """Build for this GPU; TensorRT-RTX without a named compute capability where it does not know
    this one. Raises MissingEnvironment where it refuses that too.
    """
    gpus, onnx = find_gpus(), graphs.onnx(precision)
    capabilities = (gpus[0].compute_capability,)
    tag = format_engine_tag(flavour, capabilities)
    plan = BuildPlan(
        onnx=onnx,
        engine=graphs.folder / name_engine_file(graphs.model, precision, tag),
        flavour=flavour.name,
        compute_capabilities=capabilities,
        profiles=_PROFILES,
        workspace_mib=_WORKSPACE_MIB,
        timing_cache=graphs.folder / f"{flavour.name}.cache",
    )
    for_this_card = True
    try:
        outcome = build_engine(plan)
    except BadInput as error:
        if "compute capability" not in error.message:
            raise
        measured["refused"] = error.message
        for_this_card, plan = False, replace(plan, compute_capabilities=())
        try:
            outcome = build_engine(plan)
        except HvtDeployError as second:
            raise MissingEnvironment(f"{error.message} {second.message}") from second
    nodes = read_facts(load_onnx(onnx, weights=False))
    audit = audit_layers(outcome.layers, nodes)
    costs = tuple(
        count_profile_cost(plan, outcome, nodes, place, profile.opt)
        for place, profile in enumerate(_PROFILES)
    )
    make_passport(plan, outcome, gpus, precision, audit, "", costs).write(plan.engine)
    measured.update({"library": outcome.flavour.title, "build_s": outcome.seconds})
    measured.update({"kernels": audit.kernels, "int8 kernels": audit.layers.int8})
    measured["int8 share of Q/DQ MACs"] = audit.int8_share
    expect(audit.kernels > 0, "The layers of the engine could not be read.")
    expect(
        (audit.layers.int8 > 0) == (precision == "int8"),
        f"{audit.layers.int8} kernels of the {precision} engine are INT8.",
    )
    return _BuiltEngine(plan.engine, for_this_card, costs)


def _check_engine(
    graphs: VerifiedGraphs,
    engine: _BuiltEngine,
    precision: EnginePrecision,
    measured: dict[str, Fact],
) -> None:
    """Its logits in every batch size, and in parts of more images than a profile takes."""
    passport = read_passport(engine.path)
    try:
        if engine.for_this_card:
            flavour = FlavourInfo(passport.flavour, passport.version)
            check_passport(engine.path, passport, Machine((flavour,), find_gpus()))
        backend = graphs.open("trt", "cuda", precision, engine.path)
    except HvtDeployError as error:
        if engine.for_this_card:
            raise
        raise MissingEnvironment(
            f"An engine without a named compute capability does not run here: {error.message}"
        ) from error
    with closing(backend):
        compare_with_reference(backend, graphs, precision, measured)
        images_NCHW = graphs.images_NCHW
        three = np.concatenate([images_NCHW, images_NCHW[::-1], images_NCHW])
        logits_NK = backend.infer(three)
        parity = compare_logits(logits_NK[:IMAGES], logits_NK[IMAGES : 2 * IMAGES][::-1])
    measured["parts sqnr_db"] = parity.sqnr_db
    expect(parity.sqnr_db >= _REPEATED_SQNR_DB, "The parts of 48 images come back out of order.")


def _compare_with_graph(
    graphs: VerifiedGraphs, engine: _BuiltEngine, measured: dict[str, Fact]
) -> None:
    """The row `int8 engine numerics`, by which engines are judged without a GPU, holds on one."""
    with ExitStack() as stack:
        ort = stack.enter_context(closing(graphs.open("ort", "cpu", "int8-fp32")))
        trt = stack.enter_context(closing(graphs.open("trt", "cuda", "int8", engine.path)))
        images_NCHW = graphs.images_NCHW
        parity = compare_logits(ort.infer(images_NCHW), trt.infer(images_NCHW))
    measured["sqnr_db"] = parity.sqnr_db
    expect(
        parity.sqnr_db >= _NUMERICS_SQNR_DB,
        f"SQNR of the engine against its graph in ONNX Runtime: {parity.sqnr_db:.1f} dB.",
    )


def _time_engines(
    graphs: VerifiedGraphs,
    engines: Mapping[EnginePrecision, _BuiltEngine],
    batch: int,
    measured: dict[str, Fact],
) -> None:
    images_NCHW = repeat_to(graphs.images_NCHW, batch)
    with ExitStack() as stack:
        bound = {
            precision: stack.enter_context(
                closing(graphs.open("trt", "cuda", precision, _get(engines, precision).path))
            ).bind(images_NCHW)
            for precision in ("fp16", "int8")
        }
        time_bound(bound, batch, measured, speedup_of="int8")
    int8, fp16 = (_get(engines, precision).costs for precision in ("int8", "fp16"))
    _add_prediction(batch, int8, fp16, measured)


def _add_prediction(
    batch: int,
    int8: Sequence[ProfileCost],
    fp16: Sequence[ProfileCost],
    measured: dict[str, Fact],
) -> None:
    """The time of INT8 in times of FP16, next to the prediction: the ratio of bytes by the lists of
    layers.
    """
    own = {cost.batch: cost for cost in int8}
    for reference in fp16:
        if reference.batch == batch and batch in own:
            predicted = replace(own[batch], fp16=reference.own).traffic_ratio
            measured["predicted time ratio"] = "unknown" if predicted is None else predicted
    speed = measured.get(f"int8 batch {batch} times as fast")
    if isinstance(speed, float) and "predicted time ratio" in measured:
        measured["measured time ratio"] = 1 / speed


def _compare_with_trtexec(
    graphs: VerifiedGraphs,
    engine: _BuiltEngine,
    flavour: FlavourInfo,
    measured: dict[str, Fact],
) -> None:
    """Launches back to back, as trtexec times them."""
    command = write_trtexec_command(
        engine.path, graphs.signature, _TRTEXEC_BATCH, flavour, profile=_TRTEXEC_PROFILE
    )
    theirs_ms = time_with_trtexec(command)
    with closing(graphs.open("trt", "cuda", "fp16", engine.path)) as backend:
        bound = {"ours": backend.bind(graphs.images_NCHW[:_TRTEXEC_BATCH])}
        time_bound(bound, _TRTEXEC_BATCH, measured)
    ours_ms = float(measured[f"ours batch {_TRTEXEC_BATCH} back to back_ms"])
    measured["trtexec median_ms"] = theirs_ms
    expect(
        abs(ours_ms / theirs_ms - 1) <= _TRTEXEC_TOLERANCE,
        f"{ours_ms:.3f} ms here, {theirs_ms:.3f} ms by trtexec.",
    )


def _get(
    engines: Mapping[EnginePrecision, _BuiltEngine], precision: EnginePrecision
) -> _BuiltEngine:
    if precision not in engines:
        raise MissingEnvironment(f"There is no {precision} engine that runs.")
    return engines[precision]
