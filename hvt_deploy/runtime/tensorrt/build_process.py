"""The child process that builds one engine; it reports progress through lines on its standard
output (see `build.py`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import cast

from hvt_deploy.core.errors import BadInput, MissingEnvironment, ToolFailure
from hvt_deploy.core.files import replace_file
from hvt_deploy.core.worker import answer
from hvt_deploy.runtime.tensorrt.api import (
    Builder,
    IBuilderConfig,
    INetworkDefinition,
    Native,
    OnnxParser,
    RtxIBuilderConfig,
    RtxTensorRT,
    TensorRT,
)
from hvt_deploy.runtime.tensorrt.build import BuildOutcome, write_outcome
from hvt_deploy.runtime.tensorrt.engine_io import deserialize_engine
from hvt_deploy.runtime.tensorrt.flavours import (
    Flavour,
    list_rtx_capabilities,
    open_flavour,
    start_library,
)
from hvt_deploy.runtime.tensorrt.inspection import inspect_engine
from hvt_deploy.runtime.tensorrt.layer_list import EngineLayer, parse_layer_lines
from hvt_deploy.runtime.tensorrt.messages import find_hint, is_noise, make_logger
from hvt_deploy.runtime.tensorrt.monitor import BuildLog, make_monitor
from hvt_deploy.runtime.tensorrt.plan import BuildPlan, Profile


def carry_out(plan: BuildPlan) -> None:
    """Carry out a plan and write its outcome to the engine's folder."""
    try:
        write_outcome(compile_engine(plan))
    except OSError as error:
        folder, why = plan.engine.parent, error.strerror or error
        message = f"The engine could not be written to {folder}: {why}."
        raise MissingEnvironment(message, "Free some space there.") from error


def compile_engine(plan: BuildPlan) -> BuildOutcome:
    """Parse, configure, build, write. Raises as `build_engine` does."""
    started = time.monotonic()
    flavour, log = open_flavour(plan.flavour), BuildLog()
    trt = flavour.trt
    logger = make_logger(trt, log.add)
    builder = start_library(flavour, lambda: trt.Builder(logger), log.errors)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse_graph(trt.OnnxParser(network, logger), network, plan, flavour)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, plan.workspace_mib << 20)
    config.clear_flag(trt.BuilderFlag.TF32)  # the graph says FP32, and TF32 has 10 bits of mantissa
    _add_profiles(trt, builder, network, config, plan, log)
    if plan.flavour == "tensorrt_rtx":
        name_targets(cast("RtxTensorRT", trt), cast("RtxIBuilderConfig", config), plan, flavour)
    cache_note = "" if plan.flavour == "tensorrt_rtx" else _load_timing_cache(config, plan)
    config.progress_monitor = make_monitor(trt)
    blob = builder.build_serialized_network(network, config)
    if blob is None:
        reason = " ".join(log.errors) or "no reason given"
        raise ToolFailure(
            f"{flavour.info.title} cannot build {plan.onnx.name}: {reason}", find_hint(reason)
        )
    plan.engine.write_bytes(blob)
    if plan.flavour != "tensorrt_rtx":
        cache_note = _save_timing_cache(config, plan) or cache_note
    layers, layers_note = _read_layers(flavour, logger, log, plan)
    notes = tuple(note for note in (cache_note, layers_note) if note)
    return BuildOutcome(plan.engine, flavour.info, layers, time.monotonic() - started, notes)


def name_targets(
    trt: RtxTensorRT, config: RtxIBuilderConfig, plan: BuildPlan, flavour: Flavour
) -> None:
    """Set the compute capabilities to build for. Raises BadInput with the known ones."""
    known = list_rtx_capabilities(trt)
    config.num_compute_capabilities = len(plan.compute_capabilities)
    for index, capability in enumerate(plan.compute_capabilities):
        name = f"SM{capability.replace('.', '')}"
        if capability not in known or not config.set_compute_capability(
            getattr(trt.ComputeCapability, name), index
        ):
            raise BadInput(
                f"{flavour.info.title} cannot build for compute capability {capability}.",
                f"It knows: {', '.join(known)}. "
                "For other GPUs run build-trt with TensorRT on the machine that has one.",
            )


def _parse_graph(
    parser: OnnxParser, network: INetworkDefinition, plan: BuildPlan, flavour: Flavour
) -> None:
    # From a path, not from bytes: weights in external data are looked up in its folder.
    parsed = parser.parse_from_file(str(plan.onnx))
    if not parsed and parser.num_errors:
        error = parser.get_error(parser.num_errors - 1)
        reason = _remove_noise(error.desc())
        code = str(error.code()).rpartition(".")[2]
        where = (
            f"node '{error.node_name()}' ({error.node_operator()})"
            if error.node_operator()
            else "the file"
        )
        raise ToolFailure(
            f"{flavour.info.title} refuses {where} of {plan.onnx.name}: {code}: {reason}",
            find_hint(f"{code} {reason}"),
        )
    if not parsed or network.num_layers == 0 or network.num_outputs == 0:
        raise ToolFailure(
            f"{plan.onnx.name} holds no graph that {flavour.info.title} can read: "
            f"it has {network.num_layers} layers.",
            "The file is empty or damaged. Run `hvt-deploy export` again.",
        )


def _add_profiles(
    trt: TensorRT,
    builder: Builder,
    network: INetworkDefinition,
    config: IBuilderConfig,
    plan: BuildPlan,
    log: BuildLog,
) -> None:
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    shapes = {tensor.name: (*tensor.shape,) for tensor in inputs}
    for name, shape in shapes.items():
        if -1 in shape[1:]:
            raise BadInput(
                f"Input '{name}' of {plan.onnx.name} has shape {shape}: "
                "only the batch may be dynamic."
            )
    fixed = {shape[0] for shape in shapes.values()} - {-1}
    if not any(shape[0] == -1 for shape in shapes.values()):
        wrong = [p for p in plan.profiles if fixed != {p.min} or p != Profile(p.min, p.min, p.min)]
        if wrong:
            batch = max(fixed)
            raise BadInput(
                f"{plan.onnx.name} has the fixed batch size {batch}, "
                f"which profile {wrong[0]} does not fit.",
                f"Leave --profile out, or give {batch},{batch},{batch}; "
                "or export with a dynamic batch.",
            )
        return
    if not plan.profiles:
        raise BadInput(
            f"{plan.onnx.name} has a dynamic batch: an engine needs a profile.",
            "Example: --profile 1,8,32",
        )
    for profile in plan.profiles:
        limits = builder.create_optimization_profile()
        for name, (_, *rest) in shapes.items():
            batches = (profile.min, profile.opt, profile.max)
            limits.set_shape(name, *(trt.Dims([batch, *rest]) for batch in batches))
        if config.add_optimization_profile(limits) < 0:
            raise ToolFailure(
                f"Profile {profile} was refused: {_get_last(log.errors)}",
                find_hint(_get_last(log.errors)),
            )


def _load_timing_cache(config: IBuilderConfig, plan: BuildPlan) -> str:
    """Give the builder the timings of earlier builds; the note says why those that are there cannot
    be used.

    TensorRT-RTX has the same calls, but they do nothing there and warn.
    """
    if plan.timing_cache is None:
        return ""
    stored = plan.timing_cache.read_bytes() if plan.timing_cache.is_file() else b""
    cache = config.create_timing_cache(stored)
    if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
        return ""
    empty = config.create_timing_cache(b"")
    if empty is not None:
        config.set_timing_cache(empty, ignore_mismatch=False)
    return (
        f"The timing cache {plan.timing_cache} is of another version or device, or damaged; "
        "it was ignored."
    )


def _save_timing_cache(config: IBuilderConfig, plan: BuildPlan) -> str:
    cache = config.get_timing_cache()
    if plan.timing_cache is None or cache is None:
        return ""
    try:
        plan.timing_cache.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(plan.timing_cache) as temporary:
            temporary.write_bytes(cache.serialize())
    except OSError as error:
        return (
            f"The timing cache {plan.timing_cache} could not be written: {error.strerror or error}."
        )
    return ""


def _read_layers(
    flavour: Flavour, logger: Native, log: BuildLog, plan: BuildPlan
) -> tuple[tuple[EngineLayer, ...], str]:
    """The engine's layers; a list that cannot be read is a note, for the engine itself is good."""
    try:
        if log.layers:
            return parse_layer_lines(log.layers), ""
        trt = flavour.trt
        runtime = start_library(flavour, lambda: trt.Runtime(logger), log.errors)
        engine = deserialize_engine(runtime, plan.engine)
        if engine is None:
            raise ToolFailure(
                f"The engine that was just built cannot be read: {_get_last(log.errors)}"
            )
        return inspect_engine(trt, engine), ""
    except (MissingEnvironment, ToolFailure) as error:
        return (), f"The engine was not audited. {error.message}"


def _remove_noise(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not is_noise(line))


def _get_last(messages: Sequence[str]) -> str:
    return messages[-1] if messages else ""


if __name__ == "__main__":
    sys.exit(answer(BuildPlan, carry_out))
