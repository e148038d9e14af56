"""ONNX Runtime's bound inference on a stand-in of its GPU session and the stub of libcuda."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from fake_onnxruntime import Binding, Gpu
from ort_graphs import images, linear, request
from stub_libcuda import Stub

from hvt_deploy.core.errors import CheckFailed, ToolFailure
from hvt_deploy.evaluation.verification.check_onnxruntime import compare_captured
from hvt_deploy.evaluation.verification.checks import Fact
from hvt_deploy.runtime import ort, ort_session
from hvt_deploy.runtime.base import DeviceCall
from hvt_deploy.runtime.failures import breaks_cuda
from hvt_deploy.runtime.ort import OrtBackend
from hvt_deploy.runtime.provider_placement import Placement
from hvt_deploy.runtime.tensorrt.cuda import CudaFailure
from hvt_deploy.runtime.variant import Variant

PROVIDERS = ["CUDAExecutionProvider", "TensorrtExecutionProvider"]


@pytest.fixture
def open_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stub: Stub):
    """Opens a backend on a GPU; when it is closed nothing may be left over."""
    opened: list[OrtBackend] = []
    gpus: list[Gpu] = []

    def open_backend(gpu: Gpu, runtime: str = "ort") -> OrtBackend:
        gpus.append(gpu)
        monkeypatch.setattr(onnxruntime, "InferenceSession", gpu.open)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: PROVIDERS)
        monkeypatch.setattr(ort_session, "load_cuda_libraries", lambda: None)
        monkeypatch.setattr(ort_session, "load_tensorrt", lambda: None)
        placement = Placement({"head": PROVIDERS[runtime == "ort-trt"]})
        monkeypatch.setattr(ort, "prove_placement", lambda _: placement)
        asked = request(linear(tmp_path / "m.onnx"))
        opened.append(OrtBackend(replace(asked, variant=Variant(runtime, "cuda", "fp32"))))
        return opened[-1]

    yield open_backend
    for backend in opened:
        backend.close()
    assert stub.live() == {}
    assert not any(gpu.outlived for gpu in gpus if not gpu.breaks), "a session without its stream"


def bind(backend: OrtBackend, batch: int) -> DeviceCall:
    call = backend.bind(images(batch))
    assert isinstance(call, DeviceCall)
    return call


def test_bound_call_replays_a_captured_graph_timed_by_our_events(open_on, stub: Stub) -> None:
    gpu = Gpu()
    call = bind(open_on(gpu), 4)
    assert (call(), call.time(30)) == (1.0, 30.0)
    assert call.launches.cuda_graph
    assert call.launches.note == ""
    assert stub.live()["executables"] == 1
    assert gpu.opened[-1]["enable_cuda_graph"] == "1"
    assert gpu.opened[-1]["use_tf32"] == "0"


def test_replay_gives_the_logits_of_its_images_whatever_infer_runs_meanwhile(open_on) -> None:
    backend = open_on(Gpu())
    call = bind(backend, 4)
    eager_NK = backend.infer(images(4))
    backend.infer(images(7))
    np.testing.assert_array_equal(call.rerun(), eager_NK)


def test_node_on_the_cpu_leaves_the_graph_out_and_says_why(open_on, stub: Stub) -> None:
    backend = open_on(Gpu(node_on_cpu=True))
    call = bind(backend, 4)
    assert not call.launches.cuda_graph
    assert "No CUDA graph: [ONNXRuntimeError] : 1 : FAIL" in call.launches.note
    assert "not been partitioned to the CUDAExecutionProvider" in call.launches.note
    np.testing.assert_array_equal(call.rerun(), backend.infer(images(4)))
    assert call.time(5) == 5.0
    assert "executables" not in stub.live()


def test_capture_that_fails_is_left_out_with_its_stream(open_on, stub: Stub) -> None:
    backend = open_on(Gpu(capturable=False))
    call = bind(backend, 4)
    assert call.launches.note == "No CUDA graph: CUDA failure 901: a capture was invalidated"
    np.testing.assert_array_equal(call.rerun(), backend.infer(images(4)))
    assert stub.live()["streams"] == 1


def test_versions_that_wait_for_each_replay_are_said_to(open_on) -> None:
    call = bind(open_on(Gpu(replay_waits=True)), 4)
    assert call.launches.cuda_graph
    assert "pause between two" in call.launches.note


def test_next_bind_frees_what_the_last_one_held(open_on, stub: Stub) -> None:
    backend = open_on(Gpu())
    first = bind(backend, 8)
    held = stub.live()
    second = bind(backend, 2)
    assert stub.live() == held
    with pytest.raises(ToolFailure, match="not bound any more"):
        first()
    with pytest.raises(ToolFailure, match="not bound any more"):
        first.rerun()
    np.testing.assert_array_equal(second.rerun(), backend.infer(images(2)))


def test_a_thread_of_its_own_captures_again(open_on) -> None:
    backend = open_on(Gpu())
    call = bind(backend, 4)
    with ThreadPoolExecutor(1) as pool:
        runs = [pool.submit(call.rerun).result() for _ in range(4)]
    for logits_NK in runs:
        np.testing.assert_array_equal(logits_NK, backend.infer(images(4)))


def test_tensorrt_provider_captures_by_its_own_option(open_on) -> None:
    gpu = Gpu()
    assert bind(open_on(gpu, "ort-trt"), 1).launches.cuda_graph
    assert gpu.opened[-1]["trt_cuda_graph_enable"] == "1"
    assert "enable_cuda_graph" not in gpu.opened[-1]
    assert not {"trt_cuda_graph_enable", "user_compute_stream"} & set(gpu.opened[0])


def test_full_memory_is_no_reason_to_try_without_a_graph(open_on, monkeypatch, stub: Stub) -> None:
    gpu = Gpu()
    backend = open_on(gpu)
    monkeypatch.setenv("STUB_CUDA_FAIL", "cuMemAlloc:1:2")
    with pytest.raises(CudaFailure, match="OUT_OF_MEMORY"):
        backend.bind(images(4))
    assert len(gpu.opened) == 1
    assert stub.live() == {}


def test_error_that_ends_cuda_ends_the_row(open_on, stub: Stub) -> None:
    gpu = Gpu(breaks=True)
    with pytest.raises(ToolFailure, match="illegal memory access") as caught:
        open_on(gpu).bind(images(4))
    assert breaks_cuda(caught.value)
    assert len(gpu.opened) == 2, "it is not tried again without a graph"


def compare(gpu: Gpu, open_on) -> dict[str, Fact]:
    """The section's check of the CUDA graph on such a GPU."""
    backend, measured = open_on(gpu), dict[str, Fact]()
    compare_captured(backend._request, images(4), measured)
    return measured


def test_verification_finds_the_replay_equal_to_the_eager_run(open_on) -> None:
    measured = compare(Gpu(), open_on)
    assert measured["sqnr_db"] == 150, "the most that is counted"
    assert measured["captured back to back_ms"] == measured["plain back to back_ms"] == 1.0
    assert measured["captured median_ms"] == measured["plain median_ms"] == 1.0


@pytest.mark.parametrize(
    ("gpu", "why"),
    [
        (Gpu(replays_nothing=True), "did not write"),
        (Gpu(node_on_cpu=True), "No CUDA graph: .* FAIL"),
    ],
)
def test_verification_fails_without_a_graph_that_works(open_on, gpu: Gpu, why: str) -> None:
    with pytest.raises(CheckFailed, match=why):
        compare(gpu, open_on)


def test_the_real_binding_takes_what_the_stand_in_takes() -> None:
    for name in ("bind_input", "bind_output"):
        real = inspect.signature(getattr(onnxruntime.IOBinding, name)).parameters
        assert list(real)[:7] == list(inspect.signature(getattr(Binding, name)).parameters)
