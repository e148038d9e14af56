"""The backend on stand-ins of TensorRT (all recorded versions) and of the CUDA runtime: it has run
on no GPU here.
"""

from __future__ import annotations

import gc
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda.bindings import runtime as real_cuda
from fake_tensorrt import RTX, VERSIONS, FakeCuda, FakeTensorRT, World

from hvt_deploy.core.errors import BadInput, MissingEnvironment, ToolFailure
from hvt_deploy.core.tensors import Signature
from hvt_deploy.core.types import FlavourName
from hvt_deploy.runtime.backend_registry import open_backend
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.tensorrt.audit import audit_layers
from hvt_deploy.runtime.tensorrt.backend import TrtBackend
from hvt_deploy.runtime.tensorrt.build import BuildOutcome
from hvt_deploy.runtime.tensorrt.flavours import FlavourInfo
from hvt_deploy.runtime.tensorrt.passport import make_passport
from hvt_deploy.runtime.tensorrt.plan import BuildPlan, Profile
from hvt_deploy.runtime.variant import Variant

CLASSIC = "10.3.0"


def write_engine(folder: Path, flavour: FlavourName) -> Path:
    """An engine file with its passport."""
    onnx, engine = folder / "model.onnx", folder / "model.engine"
    onnx.write_bytes(b"graph")
    engine.write_bytes(b"engine")
    plan = BuildPlan(onnx, engine, flavour, ("8.6",), (Profile(1, 4, 8),), workspace_mib=512)
    outcome = BuildOutcome(engine, FlavourInfo(flavour, "10.3.0"), (), 1.0)
    make_passport(plan, outcome, (), "fp32", audit_layers(()), "").write(engine)
    return engine


class Bench:
    """A machine made of stand-ins, with an engine file on it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
        self.world, self.cuda = world, FakeCuda(world)
        flavour: FlavourName = "tensorrt_rtx" if world.version == RTX else "tensorrt"
        monkeypatch.setitem(sys.modules, flavour, FakeTensorRT(world))
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", self.cuda)
        self.path = write_engine(folder, flavour)

    def open(self, num_classes: int = 5) -> TrtBackend:
        signature = Signature(self.world.image[1:], num_classes)
        return TrtBackend(
            BackendRequest(Variant("trt", "cuda", "fp32"), self.path, "model", signature, 1)
        )

    def executed(self) -> list[str]:
        return [call for call in self.world.calls if call.startswith(("execute", "graph"))]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    return lambda world: Bench(tmp_path, monkeypatch, world)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 3, 4, 4)).astype(np.float32)


@pytest.mark.parametrize("version", VERSIONS)
def test_logits_of_every_batch_on_every_recorded_version(bench, version: str) -> None:
    machine = bench(World(version))
    backend = machine.open()
    for count in (1, 3, 8, 9, 21):
        batch = images(count)
        np.testing.assert_array_equal(backend.infer(batch), machine.world.expected(batch))
    backend.close()


def test_more_images_than_a_profile_takes_run_in_equal_parts(bench) -> None:
    machine = bench(World(CLASSIC, ranges=((3, 4, 8),)))
    machine.open().infer(images(10))
    assert machine.executed() == [
        "execute 5 in profile 0",
        "execute 5 in profile 0",
    ]  # 8 and 2 would not fit


def test_profile_tuned_nearest_to_the_batch_is_taken(bench) -> None:
    machine = bench(World(CLASSIC, ranges=((1, 8, 32), (1, 1, 1), (16, 32, 64))))
    backend = machine.open()
    for count in (1, 9, 30, 40, 1):
        backend.infer(images(count))
    assert machine.executed() == [
        "execute 1 in profile 1",
        "execute 9 in profile 0",
        "execute 30 in profile 2",
        "execute 40 in profile 2",
        "execute 1 in profile 1",
    ]
    bound = backend.bind(images(20))
    bound()
    np.testing.assert_array_equal(backend.infer(images(1)), machine.world.expected(images(1)))


def test_batch_that_no_profile_takes(bench) -> None:
    backend = bench(World(CLASSIC, ranges=((4, 8, 16), (32, 32, 32)))).open()
    with pytest.raises(BadInput, match="batches of 4 to 16, 32 to 32 images, not 2") as caught:
        backend.infer(images(2))
    assert "--profile" in caught.value.hint
    with pytest.raises(BadInput, match="not 20"):
        backend.bind(images(20))


def test_engine_of_fixed_batch(bench) -> None:
    machine = bench(World(CLASSIC, ranges=((2, 2, 2),), fixed=True))
    backend = machine.open()
    np.testing.assert_array_equal(backend.infer(images(4)), machine.world.expected(images(4)))
    with pytest.raises(BadInput, match="not 1"):
        backend.infer(images(1))


def test_bound_call_replays_a_graph_whatever_infer_runs_meanwhile(bench) -> None:
    machine = bench(World(CLASSIC))
    backend = machine.open()
    run = backend.bind(images(4))
    machine.world.calls.clear()
    assert run() == 1.0, "the time between two CUDA events around the graph"
    backend.infer(images(7))
    run()
    assert machine.executed() == ["graph", "execute 7 in profile 0", "graph"]


def test_captured_graph_owns_its_context_and_buffers(bench) -> None:
    machine = bench(World(CLASSIC))
    backend = machine.open()
    run = backend.bind(images(4))
    gc.collect()
    assert run() == 1.0  # the stand-in refuses a context or buffers that were freed
    assert len(machine.world.contexts) == 2


@pytest.mark.parametrize("version", [CLASSIC, RTX])
def test_next_bind_frees_what_the_last_one_held(bench, version: str) -> None:
    machine = bench(World(version))
    backend = machine.open()
    first = backend.bind(images(8))
    backend.bind(images(2))
    assert len(machine.world.contexts) == 2  # the backend's own and the bound one
    assert len(machine.world.memory) == 2
    assert len(machine.cuda._graphs) == (version == CLASSIC)
    with pytest.raises(ToolFailure, match="not bound any more"):
        first()


def test_capture_in_which_enqueuing_fails_leaves_no_graph(bench) -> None:
    machine = bench(World(CLASSIC, fails_in_capture=True))
    backend = machine.open()
    run = backend.bind(images(4))
    machine.world.calls.clear()
    run()
    assert machine.executed() == ["execute 4 in profile 0"]
    assert machine.cuda.captured == machine.cuda._graphs == {}


def test_failed_bind_frees_everything(bench) -> None:
    machine = bench(World(CLASSIC))
    backend = machine.open()
    machine.world.ranges = ((8, 8, 8),)  # the context refuses the shape that the engine announced
    with pytest.raises(ToolFailure, match="outside profile"):
        backend.bind(images(4))
    assert machine.world.memory == {}


def test_device_memory_of_infer_is_kept_from_call_to_call(bench) -> None:
    machine = bench(World(CLASSIC))
    backend = machine.open()
    backend.infer(images(8))
    held = set(machine.world.memory)
    backend.infer(images(3))
    assert set(machine.world.memory) == held
    assert len(held) == 2


def test_bound_call_without_a_graph_where_none_can_be_captured(bench) -> None:
    machine = bench(World(CLASSIC, capturable=False))
    run = machine.open().bind(images(4))
    machine.world.calls.clear()
    run()
    run()
    assert machine.executed() == ["execute 4 in profile 0"] * 2


def test_rtx_compiles_at_once_and_captures_by_itself(bench) -> None:
    machine = bench(World(RTX))
    run = machine.open().bind(images(4))
    assert (
        "DynamicShapesKernelSpecializationStrategy.EAGER CudaGraphStrategy.WHOLE_GRAPH_CAPTURE"
        in machine.world.calls
    )
    run()
    assert "graph" not in machine.world.calls


def test_inputs_of_a_bound_call_stay_on_the_device(bench) -> None:
    machine = bench(World(CLASSIC))
    run = machine.open().bind(images(4))
    resident = set(machine.world.memory)
    run()
    assert set(machine.world.memory) == resident
    assert len(resident) == 2


@pytest.mark.parametrize("capturable", [True, False])
def test_close_frees_everything(bench, capturable: bool) -> None:
    machine = bench(World(CLASSIC, capturable=capturable))
    backend = machine.open()
    backend.infer(images(3))
    backend.bind(images(2))
    backend.bind(images(4))
    backend.close()
    backend.close()
    assert machine.world.memory == {}
    assert machine.world.contexts == set()
    assert machine.cuda._graphs == machine.cuda.captured == {}
    assert machine.cuda.streams == 0
    assert machine.cuda.events == {}


@pytest.mark.parametrize(
    ("world", "num_classes"),
    [(World(CLASSIC), 7), (World(CLASSIC, dtype="HALF"), 5)],
    ids=["another number of classes", "another type"],
)
def test_engine_of_another_signature(bench, world: World, num_classes: int) -> None:
    machine = bench(world)
    with pytest.raises(BadInput, match=r"expected 'images' of shape \(N, 3, 4, 4\)"):
        machine.open(num_classes)
    assert machine.cuda.streams == 0


def test_engine_that_cannot_be_read_says_why(bench) -> None:
    machine = bench(World(CLASSIC, readable=False))
    with pytest.raises(ToolFailure, match="built by another version") as caught:
        machine.open()
    assert "build-trt" in caught.value.hint
    assert machine.cuda.streams == 0


def test_images_of_another_shape(bench) -> None:
    backend = bench(World(CLASSIC)).open()
    for wrong in (np.zeros((2, 3, 5, 4), np.float32), np.zeros((0, 3, 4, 4), np.float32)):
        with pytest.raises(BadInput, match="takes images of shape"):
            backend.infer(wrong)


def test_full_device_memory_is_an_error_with_the_call(bench, monkeypatch) -> None:
    machine = bench(World(CLASSIC))
    backend = machine.open()
    monkeypatch.setattr(machine.cuda, "cudaMalloc", lambda size: (2, None))
    with pytest.raises(ToolFailure, match=r"CUDA: .* failed: an error"):
        backend.infer(images(1))


def test_missing_engine_file(bench) -> None:
    machine = bench(World(CLASSIC))
    machine.path.unlink()
    with pytest.raises(BadInput, match="no engine"):
        machine.open()


def test_stand_in_of_cuda_has_the_real_functions_with_their_parameters() -> None:
    checked = 0
    for name, given in FakeCuda(World(CLASSIC)).functions():
        signature = (getattr(real_cuda, name).__doc__ or "").splitlines()[0]
        inside = re.fullmatch(rf"{name}\((.*)\)", signature)
        assert inside is not None, signature
        real = [
            re.split(r"[:=]", part)[0].split()[-1] for part in inside[1].split(",") if part.strip()
        ]
        assert given == real, name
        checked += 1
    assert checked > 10
    for enum in ("cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode"):
        assert set(vars(getattr(FakeCuda, enum))) <= set(dir(getattr(real_cuda, enum)))


def test_without_a_driver_the_environment_is_missing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    engine = write_engine(tmp_path, "tensorrt_rtx")
    request = BackendRequest(
        Variant("trt", "cuda", "fp32"), engine, "model", Signature((4, 4), 5), 1
    )
    with pytest.raises(MissingEnvironment, match="CUDA does not start"):
        open_backend(request)
