"""The TensorRT code on NVIDIA's real Python bindings, whose C++ libraries are `stub_tensorrt.c`.

`test_bindings.py` runs this file once for each version, in a process that imports it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorrt as trt
from fake_tensorrt import find_differences
from stub_libcuda import Stub

from hvt_deploy.core.errors import BadInput, MissingEnvironment, ToolFailure
from hvt_deploy.core.tensors import Signature
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.tensorrt.audit import audit_layers
from hvt_deploy.runtime.tensorrt.backend import TrtBackend
from hvt_deploy.runtime.tensorrt.build_process import compile_engine
from hvt_deploy.runtime.tensorrt.engine_io import (
    BatchRange,
    check_io_tensors,
    read_batch_ranges,
)
from hvt_deploy.runtime.tensorrt.flavours import (
    FlavourInfo,
    available_flavours,
    open_flavour,
    start_library,
)
from hvt_deploy.runtime.tensorrt.messages import make_logger
from hvt_deploy.runtime.tensorrt.passport import make_passport
from hvt_deploy.runtime.tensorrt.plan import BuildPlan, Profile
from hvt_deploy.runtime.variant import Variant

VERSION = os.environ["BINDINGS_VERSION"]
MAJOR = int(VERSION.partition(".")[0])
LIBRARY = ctypes.CDLL(f"libnvinfer.so.{MAJOR}")
LIBRARY.stub_calls.restype = ctypes.c_char_p


def fail(name: str = "") -> None:
    """Let a part of the library fail; forgets the calls."""
    LIBRARY.stub_fail(name.encode())


def calls() -> list[str]:
    return LIBRARY.stub_calls().decode().splitlines()


@pytest.fixture
def plan(tmp_path: Path) -> BuildPlan:
    fail()
    onnx = tmp_path / "model.onnx"
    onnx.write_bytes(b"graph")
    profiles = (Profile(1, 8, 32), Profile(1, 1, 1))
    cache = tmp_path / "timing.cache"
    return BuildPlan(onnx, tmp_path / "a.engine", "tensorrt", ("8.7",), profiles, 2, cache)


def test_library_is_found_without_a_distribution_of_its_name() -> None:
    assert open_flavour("tensorrt").info == FlavourInfo("tensorrt", VERSION)
    assert FlavourInfo("tensorrt", VERSION) in available_flavours()


def test_recorded_api_is_that_of_the_bindings() -> None:
    assert find_differences(trt, VERSION) == []


def test_every_call_of_a_build_reaches_the_library(plan: BuildPlan, capsys) -> None:
    outcome = compile_engine(plan)
    assert calls() == [
        f"network flags {2 if MAJOR == 10 else 1}",
        f"parse {plan.onnx}",
        f"verbosity {int(trt.ProfilingVerbosity.DETAILED)}",
        f"pool {int(trt.MemoryPoolType.WORKSPACE)} = {2 << 20}",
        f"clear flag {int(trt.BuilderFlag.TF32)}",
        "profile images 0: 1x3x8x8",
        "profile images 1: 8x3x8x8",
        "profile images 2: 32x3x8x8",
        "profile images 0: 1x3x8x8",
        "profile images 1: 1x3x8x8",
        "profile images 2: 1x3x8x8",
        "timing cache ''",
        "set timing cache, 0",
        f"deserialize 'engine of {plan.onnx}'",
        "context profile 0",
        "context shape images 8x3x8x8",
        f"inspect in format {int(trt.LayerInformationFormat.JSON)}",
        "context profile 1",
        "context shape images 1x3x8x8",
        f"inspect in format {int(trt.LayerInformationFormat.JSON)}",
    ]
    assert plan.engine.read_bytes() == f"engine of {plan.onnx}".encode()
    assert plan.timing_cache is not None
    assert plan.timing_cache.read_bytes() == b"timings"
    assert [(layer.name, layer.profile, layer.precision) for layer in outcome.layers] == [
        ("head", 0, "Int8"),
        ("head [profile 1]", 1, "Int8"),
    ]
    assert outcome.notes == ()
    # The monitor's phases came from C++, the outer one with no parent.
    lines = capsys.readouterr().out.splitlines()
    assert "a warning of the builder" in lines
    progress = [line for line in lines if "@progress" in line]
    assert progress == [f"@progress {done} 1000" for done in (125, 250, 375, 500)]


def test_timing_cache_is_read_again_and_a_foreign_one_is_noted(plan: BuildPlan) -> None:
    compile_engine(plan)
    fail()
    assert compile_engine(plan).notes == ()
    assert "timing cache 'timings'" in calls()
    fail("timing cache")
    (note,) = compile_engine(plan).notes
    assert "was ignored" in note
    assert calls().count("set timing cache, 0") == 1


@pytest.mark.parametrize(
    ("part", "error", "message"),
    [
        ("start", MissingEnvironment, "cannot start here: CUDA initialization failure"),
        ("parse", ToolFailure, "node 'blocks.0/Einsum' (Einsum) of model.onnx: UNSUPPORTED_NODE"),
        ("layers", ToolFailure, "it has 0 layers"),
        ("profile", ToolFailure, "Profile 1,8,32 was refused: profile does not satisfy"),
        ("build", ToolFailure, "cannot build model.onnx: no kernel: Out of memory"),
    ],
)
def test_failure_has_the_reason_of_the_library(
    plan: BuildPlan, part: str, error: type[Exception], message: str
) -> None:
    fail(part)
    with pytest.raises(error) as caught:
        compile_engine(plan)
    assert message in str(caught.value)
    assert "checkMacros" not in str(caught.value)
    assert not plan.engine.exists()


@pytest.mark.parametrize("part", ["deserialize", "shape"])
def test_engine_that_cannot_be_inspected_is_kept(plan: BuildPlan, part: str) -> None:
    fail(part)
    outcome = compile_engine(plan)
    assert outcome.layers == ()
    assert any("was not audited" in note for note in outcome.notes)
    assert plan.engine.is_file()


def test_build_is_cancelled_where_nobody_reads_its_progress(plan: BuildPlan, monkeypatch) -> None:
    monkeypatch.setattr("hvt_deploy.runtime.tensorrt.monitor.print_line", lambda line: False)
    with pytest.raises(ToolFailure):
        compile_engine(plan)
    assert calls()[-1] == "cancelled"


def test_logger_tells_severities_apart() -> None:
    messages: list[tuple[bool, bool, str]] = []
    logger = make_logger(trt, lambda *message: messages.append(message))
    severity = trt.ILogger.Severity
    for level in (severity.INTERNAL_ERROR, severity.ERROR, severity.WARNING, severity.INFO):
        logger.log(level, str(int(level)))
    assert messages == [
        (True, False, "0"),
        (True, False, "1"),
        (False, True, "2"),
        (False, False, "3"),
    ]


def test_dims_are_read_as_a_tuple() -> None:
    dims = trt.Dims([-1, 3, 8])
    assert (*dims,) == (-1, 3, 8)
    assert (len(dims), dims[0], dims[-1], dims[1:]) == (3, -1, 8, (3, 8))
    assert not hasattr(dims, "__iter__")
    assert (*trt.Dims([]),) == ()
    with pytest.raises((RuntimeError, ValueError)):
        trt.Dims([1] * 9)


def test_host_memory_is_bytes_only_through_a_buffer(plan: BuildPlan) -> None:
    compile_engine(plan)
    fail()
    builder = trt.Builder(make_logger(trt, lambda *_: None))
    network, config = builder.create_network(2), builder.create_builder_config()
    config.progress_monitor = type("Monitor", (trt.IProgressMonitor,), QUIET)()
    blob = builder.build_serialized_network(network, config)
    assert bytes(memoryview(blob)).startswith(b"engine of")
    assert not hasattr(blob, "__len__")
    assert not hasattr(blob, "decode")


QUIET: dict[str, Callable[..., object]] = {
    "phase_start": lambda *_: None,
    "step_complete": lambda *_: True,
    "phase_finish": lambda *_: None,
}


@pytest.fixture
def engine(plan: BuildPlan):
    """A deserialized engine, read from a memory map as the backend does."""
    compile_engine(plan)
    flavour = open_flavour("tensorrt")
    runtime = flavour.trt.Runtime(make_logger(flavour.trt, lambda *_: None))
    with (
        plan.engine.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return runtime.deserialize_cuda_engine(content)


def request_of(plan: BuildPlan, num_classes: int = 5) -> BackendRequest:
    variant = Variant("trt", "cuda", "int8")
    return BackendRequest(variant, plan.engine, "model", Signature((8, 8), num_classes), 1)


def test_inputs_and_outputs_of_an_engine_are_read(plan: BuildPlan, engine) -> None:
    ranges = read_batch_ranges(engine, request_of(plan))
    assert ranges == (BatchRange(0, 1, 8, 32), BatchRange(1, 1, 1, 1))
    check_io_tensors(open_flavour("tensorrt"), engine, request_of(plan))


def test_engine_of_another_signature_is_refused(plan: BuildPlan, engine) -> None:
    with pytest.raises(BadInput) as caught:
        check_io_tensors(open_flavour("tensorrt"), engine, request_of(plan, num_classes=6))
    assert "'logits' of shape (-1, 5) in DataType.FLOAT" in caught.value.message
    LIBRARY.stub_fail(b"type")
    with pytest.raises(BadInput, match=r"DataType\.HALF"):
        check_io_tensors(open_flavour("tensorrt"), engine, request_of(plan))


def test_context_takes_what_the_backend_gives_it(engine) -> None:
    context = engine.create_execution_context()
    fail()
    assert context.set_optimization_profile_async(1, 77)
    assert context.set_input_shape("images", (4, 3, 8, 8))
    assert (*context.get_tensor_shape("logits"),) == (4, 5)
    assert context.set_tensor_address("images", 0x7000)
    assert not context.execute_async_v3(77)  # the driver knows no such stream
    assert calls() == [
        "context profile 1",
        "context shape images 4x3x8x8",
        "address images 0x7000",
        "execute on 0x4d",
    ]


@pytest.fixture
def backend(plan: BuildPlan):
    """The opened engine, on NVIDIA's bindings of CUDA with a stub of libcuda."""
    outcome = compile_engine(plan)
    make_passport(plan, outcome, (), "int8", audit_layers(outcome.layers), "").write(plan.engine)
    backend = TrtBackend(request_of(plan))
    yield backend
    backend.close()
    assert Stub().live() == {}


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 9, (count, 3, 8, 8)).astype(np.float32)


def test_backend_computes_in_parts_and_in_a_captured_graph(backend: TrtBackend) -> None:
    for count in (1, 8, 40):
        expected = images(count).sum((1, 2, 3))[:, None] * np.arange(1, 6, dtype=np.float32)
        np.testing.assert_array_equal(backend.infer(images(count)), expected)
    bound, before = backend.bind(images(8)), len(calls())
    assert bound() is not None
    bound()
    assert len(calls()) == before  # the graph replays without TensorRT


def test_runtime_that_cannot_start_gives_the_reason() -> None:
    fail("start")
    flavour, errors = open_flavour("tensorrt"), list[str]()
    logger = make_logger(flavour.trt, lambda *message: errors.append(message[-1]))
    with pytest.raises(MissingEnvironment, match="CUDA initialization failure"):
        start_library(flavour, lambda: flavour.trt.Runtime(logger), errors)
