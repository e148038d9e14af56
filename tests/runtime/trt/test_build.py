"""Real builds of small graphs with TensorRT-RTX, which needs no GPU to build."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import graphs
import onnx
import pytest
from onnx import ModelProto

from hvt_deploy.core.errors import BadInput, MissingEnvironment, ToolFailure
from hvt_deploy.graph.analysis.engine_audit import ByPrecision
from hvt_deploy.graph.analysis.node_facts import read_facts
from hvt_deploy.runtime.tensorrt.audit import audit_layers
from hvt_deploy.runtime.tensorrt.build import BuildOutcome, build_engine
from hvt_deploy.runtime.tensorrt.flavours import open_flavour
from hvt_deploy.runtime.tensorrt.plan import BuildPlan, Profile

PROFILES = (Profile(1, 2, 4), Profile(1, 1, 1))


@pytest.fixture
def plan(tmp_path: Path) -> BuildPlan:
    """A plan for `model.onnx`, which the test writes."""
    engine = tmp_path / "engines" / "model.fp32.rtx-sm86.engine"
    engine.parent.mkdir()
    return BuildPlan(
        tmp_path / "model.onnx", engine, "tensorrt_rtx", ("8.6",), PROFILES, workspace_mib=512
    )


@pytest.fixture(scope="module")
def build(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Callable[[], ModelProto]], BuildOutcome]:
    """Builds the graph that a function makes, once for all tests of this file."""
    done: dict[object, BuildOutcome] = {}

    def build_once(make: Callable[[], ModelProto]) -> BuildOutcome:
        if make not in done:
            folder = tmp_path_factory.mktemp("build")
            onnx.save(make(), folder / "model.onnx")
            engine = folder / "model.rtx-sm86.engine"
            done[make] = build_engine(
                BuildPlan(
                    folder / "model.onnx",
                    engine,
                    "tensorrt_rtx",
                    ("8.6",),
                    PROFILES,
                    workspace_mib=512,
                )
            )
        return done[make]

    return build_once


def leftovers(plan: BuildPlan) -> list[str]:
    return sorted(p.name for p in plan.engine.parent.iterdir())


def test_engine_is_written_with_its_layers_and_progress(plan: BuildPlan) -> None:
    onnx.save(graphs.classifier(), plan.onnx)
    seen: list[tuple[int, int]] = []
    outcome = build_engine(plan, lambda done, total: seen.append((done, total)))
    assert outcome.engine == plan.engine
    assert plan.engine.stat().st_size > 1000
    assert leftovers(plan) == [plan.engine.name]
    assert outcome.flavour == open_flavour("tensorrt_rtx").info
    assert {layer.profile for layer in outcome.layers} == {0, 1}
    assert {"stem/Conv", "head/MatMul"} <= {n for layer in outcome.layers for n in layer.onnx_nodes}
    assert seen == sorted(seen)
    assert len(seen) > 10
    assert seen[-1][0] == seen[-1][1]


def test_several_compute_capabilities_are_named_in_one_engine(plan: BuildPlan) -> None:
    onnx.save(graphs.classifier(), plan.onnx)
    one = build_engine(plan).engine.read_bytes()
    both = build_engine(replace(plan, compute_capabilities=("8.6", "8.9")))
    assert both.layers
    assert both.engine.read_bytes() != one


def test_float_graph_has_no_int8_layer(build) -> None:
    audit = audit_layers(build(graphs.classifier).layers)
    assert audit.kernels == audit.layers.fp32 + audit.reformats
    assert audit.layers.fp32 > 0
    assert audit.layers.int8 == audit.layers.fp16 == audit.fused_attention == 0


def test_q_dq_layers_are_int8_and_the_others_are_not(build) -> None:
    audit = audit_layers(
        build(graphs.quantized_classifier).layers, read_facts(graphs.quantized_classifier())
    )
    assert audit.macs == ByPrecision(int8=32 * 16 * 16 * 27 + 32 * 64)
    assert audit.int8_share == 1
    assert 0 < audit.layers.int8 < audit.kernels


def test_graph_without_its_q_dq_is_not_int8(build) -> None:
    audit = audit_layers(build(graphs.classifier).layers, read_facts(graphs.classifier()))
    assert audit.macs == ByPrecision(fp32=8 * 16 * 16 * 27 + 8 * 10)
    assert (audit.int8_share, audit.int8_share_of_all) == (0, 0)


def test_attention_in_half_becomes_one_kernel(build) -> None:
    layers = build(graphs.half_attention).layers
    audit = audit_layers(layers, read_facts(graphs.half_attention()))
    assert (audit.fused_attention, audit.attention_blocks) == (1, 1)
    assert audit.macs == ByPrecision(fp16=3 * 49 * 128 * 128 + 2 * 4 * 49 * 49 * 32)
    assert audit.layers.fp16 + audit.reformats == audit.kernels
    (fused,) = (layer for layer in layers if layer.profile == 0 and "mha" in layer.name)
    assert {"attn/score/MatMul", "attn/Softmax", "attn/value/MatMul"} <= set(fused.onnx_nodes)


def test_external_weights_are_found(plan: BuildPlan) -> None:
    onnx.save(
        graphs.classifier(hidden=64),
        plan.onnx,
        save_as_external_data=True,
        size_threshold=0,
        location="weights",
    )
    assert (plan.onnx.parent / "weights").is_file()
    assert build_engine(plan).layers


@pytest.mark.parametrize("profiles", [(), (Profile(2, 2, 2),)])
def test_fixed_batch_needs_no_profile(plan: BuildPlan, profiles) -> None:
    onnx.save(graphs.classifier(batch=2), plan.onnx)
    assert build_engine(replace(plan, profiles=profiles)).layers


@pytest.mark.parametrize(
    ("batch", "profiles", "message"),
    [
        (2, (Profile(1, 2, 4),), "fixed batch size 2, which profile 1,2,4"),
        ("N", (), "needs a profile"),
    ],
)
def test_profile_that_does_not_fit_the_file(plan: BuildPlan, batch, profiles, message) -> None:
    onnx.save(graphs.classifier(batch), plan.onnx)
    with pytest.raises(BadInput, match=message):
        build_engine(replace(plan, profiles=profiles))
    assert leftovers(plan) == []


def test_unknown_compute_capability_lists_those_the_library_knows(plan: BuildPlan) -> None:
    onnx.save(graphs.classifier(), plan.onnx)
    with pytest.raises(BadInput, match=r"cannot build for compute capability 9\.0") as caught:
        build_engine(replace(plan, compute_capabilities=("8.6", "9.0")))
    trt = open_flavour("tensorrt_rtx").trt
    known = [name[2:] for name in dir(trt.ComputeCapability) if name.startswith("SM")]  # type: ignore[attr-defined]
    assert len(known) >= 6
    assert all(f"{number[:-1]}.{number[-1]}" in caught.value.hint for number in known)


@pytest.mark.parametrize(
    ("content", "where", "reason", "hint"),
    [
        (
            graphs.one_node("Frobnicate"),
            "node 'block/Frobnicate' (Frobnicate)",
            "Plugin not found",
            "no such operator",
        ),
        (
            graphs.one_node("Unique"),
            "node 'block/Unique' (Unique)",
            "UNSUPPORTED_NODE",
            "does not support",
        ),
        (graphs.mixed_types(), "node 'head/MatMul' (MatMul)", "same input types", "strongly typed"),
        (
            graphs.asymmetric_int8(),
            "node 'block/Q' (QuantizeLinear)",
            "zero point",
            "symmetric INT8",
        ),
        (b"", "model.onnx holds no graph", "0 layers", "empty or damaged"),
        (b"\x08\xff garbage" * 50, "the file of model.onnx", "MODEL_DESERIALIZE_FAILED", "cut off"),
        (
            graphs.classifier().SerializeToString()[:-200],
            "the file of model.onnx",
            "DESERIALIZE_FAILED",
            "cut off",
        ),
    ],
    ids=[
        "unknown operator",
        "unsupported",
        "mixed types",
        "zero point",
        "empty",
        "garbage",
        "truncated",
    ],
)
def test_refused_graph_is_reported_with_node_reason_and_hint(
    plan: BuildPlan, content, where, reason, hint
) -> None:
    plan.onnx.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    with pytest.raises(ToolFailure) as caught:
        build_engine(plan)
    assert where in caught.value.message
    assert reason in caught.value.message
    assert (
        "cudaError 35" not in caught.value.message
    )  # this machine has no GPU, and that is not the reason
    assert hint in caught.value.hint
    assert leftovers(plan) == []


def test_build_that_the_builder_refuses(plan: BuildPlan) -> None:
    onnx.save(graphs.classifier(), plan.onnx)
    with pytest.raises(ToolFailure, match="Cannot compile operation 'head/MatMul'") as caught:
        build_engine(replace(plan, compute_capabilities=("7.5",)))
    assert "--fp16" in caught.value.hint


def test_crash_of_the_library_takes_nothing_with_it(plan: BuildPlan) -> None:
    onnx.save(graphs.crashing_attention(), plan.onnx)
    plan.engine.write_bytes(b"the engine of before")
    with pytest.raises(ToolFailure, match=r"crashed \(SIG(SEGV|ABRT)") as caught:
        build_engine(plan)
    assert len(caught.value.message.splitlines()) > 2  # the last lines of the log
    assert "--opset 17 to 22" in caught.value.hint
    assert plan.engine.read_bytes() == b"the engine of before"
    assert leftovers(plan) == [plan.engine.name]


def test_interrupt_ends_the_child_and_leaves_what_was_there(plan: BuildPlan, monkeypatch) -> None:
    onnx.save(graphs.classifier(), plan.onnx)
    plan.engine.write_bytes(b"the engine of before")
    started: list[subprocess.Popen[str]] = []
    real = subprocess.Popen

    def spy(*args, **kwargs):
        started.append(real(*args, **kwargs))
        return started[-1]

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", spy)
    with pytest.raises(KeyboardInterrupt):
        build_engine(plan, interrupt)
    (child,) = started
    assert child.poll() is not None
    assert plan.engine.read_bytes() == b"the engine of before"
    assert leftovers(plan) == [plan.engine.name]


def test_engine_that_does_not_fit_on_the_disk(plan: BuildPlan) -> None:
    onnx.save(graphs.classifier(), plan.onnx)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # the child inherits it
    try:
        with pytest.raises(MissingEnvironment, match="could not be written"):
            build_engine(plan)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert leftovers(plan) == []


def test_missing_files_and_folders(plan: BuildPlan) -> None:
    with pytest.raises(BadInput, match="no ONNX file"):
        build_engine(plan)
    onnx.save(graphs.classifier(), plan.onnx)
    with pytest.raises(BadInput, match="No such file or directory"):
        build_engine(replace(plan, engine=plan.engine.parent / "missing" / plan.engine.name))


def test_library_that_does_not_load(plan: BuildPlan, tmp_path: Path, monkeypatch) -> None:
    onnx.save(graphs.classifier(), plan.onnx)
    (tmp_path / "tensorrt.py").write_text(
        "raise ImportError('libnvinfer.so.10: cannot open shared object file')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MissingEnvironment, match=r"'tensorrt' does not load \(libnvinfer.so.10"):
        build_engine(replace(plan, flavour="tensorrt"))
