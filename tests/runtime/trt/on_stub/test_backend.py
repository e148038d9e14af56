"""The backend on a stand-in of TensorRT (all recorded versions) and the stub of libcuda."""

from __future__ import annotations

import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fake_tensorrt import RTX, VERSIONS, FakeTensorRT, World
from stub_libcuda import Stub

from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.core.tensors import Signature
from hvt_deploy.core.types import FlavourName
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.tensorrt import rtx_contexts
from hvt_deploy.runtime.tensorrt.audit import audit_layers
from hvt_deploy.runtime.tensorrt.backend import TrtBackend
from hvt_deploy.runtime.tensorrt.build import BuildOutcome
from hvt_deploy.runtime.tensorrt.cuda import CudaFailure
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
        self.world = world
        self.opened: list[TrtBackend] = []
        flavour: FlavourName = "tensorrt_rtx" if world.version == RTX else "tensorrt"
        monkeypatch.setitem(sys.modules, flavour, FakeTensorRT(world))
        self.path = write_engine(folder, flavour)

    def open(self, num_classes: int = 5) -> TrtBackend:
        signature = Signature(self.world.image[1:], num_classes)
        backend = TrtBackend(
            BackendRequest(Variant("trt", "cuda", "fp32"), self.path, "model", signature, 1)
        )
        self.opened.append(backend)
        return backend

    def executed(self) -> list[str]:
        return [call for call in self.world.calls if call.startswith("execute")]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stub: Stub):
    """Makes a machine; when its backends are closed nothing may be left over."""
    made: list[Bench] = []

    def make(world: World) -> Bench:
        made.append(Bench(tmp_path, monkeypatch, world))
        return made[-1]

    yield make
    for backend in (backend for machine in made for backend in machine.opened):
        backend.close()
    assert stub.live() == {}


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
    before = machine.world.kernels
    assert run() == 1.0, "the time between two CUDA events around the graph"
    assert machine.world.kernels == before + 1
    backend.infer(images(7))
    run()
    assert machine.world.kernels == before + 3
    assert machine.executed() == ["execute 7 in profile 0"]


def test_launches_back_to_back_and_a_rerun_use_the_captured_graph(bench) -> None:
    machine = bench(World(CLASSIC))
    backend = machine.open()
    run = backend.bind(images(4))
    machine.world.calls.clear()
    before = machine.world.kernels
    assert run.time(25) == 25.0
    assert machine.world.kernels == before + 25
    np.testing.assert_array_equal(run.rerun(), machine.world.expected(images(4)))
    assert machine.executed() == []
    assert run.launches.cuda_graph


def test_trtexec_command_is_that_of_the_profile_and_version_that_run(bench) -> None:
    machine = bench(World(CLASSIC, ranges=((1, 8, 32), (1, 1, 1))))
    run = machine.open().bind(images(1))
    shape = "--shapes=images:1x3x4x4 --useProfile=1"
    flags = "--useCudaGraph --useSpinWait --noDataTransfers"
    assert run.launches.trtexec == f"trtexec --loadEngine={machine.path} {shape} {flags}"
    without = bench(World("11.4.0.106", capturable=False))
    run = without.open().bind(images(4))
    shape = "--shapes=images:4x3x4x4"
    assert run.launches.trtexec == f"trtexec --loadEngine={without.path} {shape} --noCudaGraph"
    rtx = bench(World(RTX))
    run = rtx.open().bind(images(4))
    assert run.launches.trtexec == f"tensorrt_rtx --loadEngine={rtx.path} {shape}"


def test_captured_graph_owns_its_context_and_buffers(bench) -> None:
    machine = bench(World(CLASSIC))
    backend = machine.open()
    run = backend.bind(images(4))
    gc.collect()
    assert run() == 1.0  # the stand-in refuses a context or buffers that were freed
    assert len(machine.world.contexts) == 2


@pytest.mark.parametrize("version", [CLASSIC, RTX])
def test_next_bind_frees_what_the_last_one_held(bench, stub: Stub, version: str) -> None:
    machine = bench(World(version))
    backend = machine.open()
    first = backend.bind(images(8))
    backend.bind(images(2))
    assert len(machine.world.contexts) == 2  # the backend's own and the bound one
    assert stub.live() == {
        "contexts": 1,
        "streams": 1,
        "events": 2,
        "device memory": 2,
        "pinned memory": 2,
        **({"executables": 1} if version == CLASSIC else {}),
    }
    with pytest.raises(ToolFailure, match="not bound any more"):
        first()


def test_capture_in_which_enqueuing_fails_leaves_no_graph(bench, stub: Stub) -> None:
    machine = bench(World(CLASSIC, fails_in_capture=True))
    backend = machine.open()
    run = backend.bind(images(4))
    machine.world.calls.clear()
    run()
    assert machine.executed() == ["execute 4 in profile 0"]
    assert not {"graphs", "executables"} & set(stub.live())


def test_failed_bind_frees_everything(bench, stub: Stub) -> None:
    machine = bench(World(CLASSIC))
    backend = machine.open()
    machine.world.ranges = ((8, 8, 8),)  # the context refuses the shape that the engine announced
    with pytest.raises(ToolFailure, match="outside profile"):
        backend.bind(images(4))
    assert stub.live() == {"contexts": 1, "streams": 1, "events": 2}


def test_device_memory_of_infer_is_kept_from_call_to_call(bench, monkeypatch) -> None:
    machine = bench(World(CLASSIC))
    backend = machine.open()
    backend.infer(images(8))
    monkeypatch.setenv("STUB_CUDA_FAIL", "cuMemAlloc:1:2")  # no more of it can be had
    np.testing.assert_array_equal(backend.infer(images(3)), machine.world.expected(images(3)))


def test_bound_call_without_a_graph_where_none_can_be_captured(bench) -> None:
    machine = bench(World(CLASSIC, capturable=False))
    run = machine.open().bind(images(4))
    assert not run.launches.cuda_graph
    assert run.launches.note.startswith("No CUDA graph: TensorRT 10.3.0 cannot run")
    machine.world.calls.clear()
    run()
    run()
    assert machine.executed() == ["execute 4 in profile 0"] * 2


def test_rtx_compiles_at_once_and_captures_by_itself(bench, stub: Stub) -> None:
    machine = bench(World(RTX))
    run = machine.open().bind(images(4))
    assert (
        "DynamicShapesKernelSpecializationStrategy.EAGER CudaGraphStrategy.WHOLE_GRAPH_CAPTURE"
        in machine.world.calls
    )
    run()
    assert "executables" not in stub.live()


def test_rtx_keeps_what_it_compiled_next_to_the_engine(bench) -> None:
    machine = bench(World(RTX))
    file = machine.path.with_name("model.engine.runtime-cache")
    machine.open().close()
    assert file.read_bytes() == machine.world.runtime_cache
    assert "runtime cache read" not in machine.world.calls
    written = file.stat().st_mtime_ns
    machine.open().close()
    assert "runtime cache read" in machine.world.calls
    assert file.stat().st_mtime_ns == written, "the same content is not written again"
    file.write_bytes(b"of another card")
    backend = machine.open()
    np.testing.assert_array_equal(backend.infer(images(2)), machine.world.expected(images(2)))
    backend.close()
    assert file.read_bytes() == machine.world.runtime_cache


def test_rtx_runs_where_nothing_can_be_kept(bench, monkeypatch) -> None:
    def refuse(path: Path) -> None:
        raise OSError("Read-only file system")

    monkeypatch.setattr(rtx_contexts, "replace_file", refuse)
    machine = bench(World(RTX))
    machine.open().close()
    assert not machine.path.with_name("model.engine.runtime-cache").exists()


def test_classic_tensorrt_keeps_nothing(bench) -> None:
    machine = bench(World(CLASSIC))
    machine.open().close()
    assert sorted(path.name for path in machine.path.parent.glob("model.engine*")) == [
        "model.engine",
        "model.engine.json",
    ]


def test_inputs_of_a_bound_call_stay_on_the_device(bench, stub: Stub, monkeypatch) -> None:
    machine = bench(World(CLASSIC))
    run = machine.open().bind(images(4))
    resident = stub.live()
    monkeypatch.setenv("STUB_CUDA_FAIL", "cuMemcpy:1:2")
    run()
    assert stub.live() == resident


@pytest.mark.parametrize("capturable", [True, False])
def test_close_frees_everything(bench, stub: Stub, capturable: bool) -> None:
    machine = bench(World(CLASSIC, capturable=capturable))
    backend = machine.open()
    backend.infer(images(3))
    backend.bind(images(2))
    backend.bind(images(4))
    backend.close()
    backend.close()
    assert machine.world.contexts == set()
    assert stub.live() == {}


@pytest.mark.parametrize(
    ("world", "num_classes"),
    [(World(CLASSIC), 7), (World(CLASSIC, dtype="HALF"), 5)],
    ids=["another number of classes", "another type"],
)
def test_engine_of_another_signature(bench, stub: Stub, world: World, num_classes: int) -> None:
    machine = bench(world)
    with pytest.raises(BadInput, match=r"expected 'images' of shape \(N, 3, 4, 4\)"):
        machine.open(num_classes)
    assert stub.live() == {}


def test_engine_that_cannot_be_read_says_why(bench, stub: Stub) -> None:
    machine = bench(World(CLASSIC, readable=False))
    with pytest.raises(ToolFailure, match="built by another version") as caught:
        machine.open()
    assert "build-trt" in caught.value.hint
    assert stub.live() == {}


def test_images_of_another_shape(bench) -> None:
    backend = bench(World(CLASSIC)).open()
    for wrong in (np.zeros((2, 3, 5, 4), np.float32), np.zeros((0, 3, 4, 4), np.float32)):
        with pytest.raises(BadInput, match="takes images of shape"):
            backend.infer(wrong)


def test_full_device_memory_is_an_error_with_the_call_and_the_backend_goes_on(
    bench, monkeypatch
) -> None:
    machine = bench(World(CLASSIC))
    backend = machine.open()
    monkeypatch.setenv("STUB_CUDA_FAIL", "cuMemAlloc:2:2")
    with pytest.raises(CudaFailure, match="cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY"):
        backend.infer(images(1))
    np.testing.assert_array_equal(backend.infer(images(1)), machine.world.expected(images(1)))


def test_launch_that_fails_is_an_error_and_closing_frees_everything(
    bench, stub: Stub, monkeypatch
) -> None:
    backend = bench(World(CLASSIC)).open()
    run = backend.bind(images(4))
    monkeypatch.setenv("STUB_CUDA_FAIL", "cuGraphLaunch:1:719")
    with pytest.raises(CudaFailure, match="CUDA_ERROR_LAUNCH_FAILED"):
        run()
    with pytest.raises(CudaFailure, match="CUDA_ERROR_LAUNCH_FAILED"):
        backend.infer(images(1))
    backend.close()
    assert stub.live() == {}


def test_inference_in_another_thread(bench) -> None:
    machine = bench(World(CLASSIC))
    backend = machine.open()
    with ThreadPoolExecutor(1) as pool:
        logits_NK = pool.submit(backend.infer, images(3)).result()
    np.testing.assert_array_equal(logits_NK, machine.world.expected(images(3)))


def test_missing_engine_file(bench) -> None:
    machine = bench(World(CLASSIC))
    machine.path.unlink()
    with pytest.raises(BadInput, match="no engine"):
        machine.open()
