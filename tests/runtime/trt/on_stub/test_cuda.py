"""Contexts, memory, copies, events and graphs of the CUDA layer, with errors at every call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, closing

import numpy as np
import pytest
from stub_libcuda import Stub

from hvt_deploy.core.errors import MissingEnvironment
from hvt_deploy.runtime.tensorrt.cuda import Cuda, CudaFailure, IoBuffers, StagedBuffer

OPENED = {"contexts": 1, "streams": 1, "events": 2}
OUT_OF_MEMORY, LAUNCH_FAILED = 2, 719


@pytest.fixture
def cuda(stub: Stub, monkeypatch: pytest.MonkeyPatch):
    """An active one; at its end nothing may be left over."""
    with closing(Cuda()) as opened, opened.activate():
        yield opened
        monkeypatch.delenv("STUB_CUDA_FAIL", raising=False)
    assert stub.live() == {}


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int, int], None]:
    """Let the n-th call of a function from now on fail."""
    return lambda call, nth, error: monkeypatch.setenv("STUB_CUDA_FAIL", f"{call}:{nth}:{error}")


def test_the_primary_context_is_retained_once_and_released(stub: Stub) -> None:
    first, second = Cuda(), Cuda()
    assert stub.live() == {"contexts": 2, "streams": 2, "events": 4}  # and none is current
    assert first.stream != second.stream
    first.close()
    assert stub.live() == OPENED
    second.close()
    assert stub.live() == {}


def test_device_that_is_not_there(stub: Stub) -> None:
    with pytest.raises(MissingEnvironment, match="CUDA does not start: CUDA: cuDeviceGet failed"):
        Cuda(7)
    assert stub.live() == {}


@pytest.mark.parametrize("call", ["cuStreamCreate:1", "cuEventCreate:1", "cuEventCreate:2"])
def test_start_that_fails_releases_the_context(stub: Stub, monkeypatch, call: str) -> None:
    monkeypatch.setenv("STUB_CUDA_FAIL", f"{call}:{OUT_OF_MEMORY}")
    with pytest.raises(CudaFailure) as caught:
        Cuda()
    assert caught.value.is_out_of_memory
    assert stub.live() == {}


def test_calls_outside_a_context_are_refused_and_the_one_before_comes_back(stub: Stub) -> None:
    with closing(Cuda()) as cuda:
        with pytest.raises(CudaFailure, match="CUDA_ERROR_INVALID_CONTEXT"):
            cuda.allocate(4)
        with cuda.activate(), cuda.activate():
            assert stub.live()["current contexts"] == 2
        with pytest.raises(ZeroDivisionError), cuda.activate():
            print(1 / 0)
        assert stub.live() == OPENED


def test_copies_come_back_from_another_thread(cuda: Cuda) -> None:
    sent = np.arange(6, dtype=np.float32).reshape(2, 3)
    received: list[np.ndarray] = []

    def copy() -> None:
        with cuda.activate(), closing(StagedBuffer(cuda)) as buffer:
            buffer.reserve(64)
            cuda.upload(sent.T, buffer)  # not contiguous
            received.append(cuda.download(buffer, (3, 2)))

    thread = threading.Thread(target=copy)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(received[0], sent.T)


def test_memory_is_kept_until_more_is_asked_for(stub: Stub, cuda: Cuda) -> None:
    with closing(IoBuffers(cuda)) as buffers:
        buffers.images.reserve(1000)
        kept = buffers.images.device.address, buffers.images.host.address
        buffers.images.reserve(10)
        assert (buffers.images.device.address, buffers.images.host.address) == kept
        buffers.images.reserve(2000)
        assert buffers.images.device.size == buffers.images.host.size == 2000
        assert stub.live() == {
            **OPENED,
            "device memory": 1,
            "pinned memory": 1,
            "current contexts": 1,
        }
    buffers.close()  # again: freed once


@pytest.mark.parametrize(("call", "nth"), [("cuMemAlloc", 2), ("cuMemHostAlloc", 1)])
def test_full_memory_is_recognisable_and_what_was_taken_is_freed(
    stub: Stub, cuda: Cuda, fail, call: str, nth: int
) -> None:
    with ExitStack() as stack:
        buffers = stack.enter_context(closing(IoBuffers(cuda)))
        fail(call, nth, OUT_OF_MEMORY)
        with pytest.raises(CudaFailure, match=rf"{call} failed: CUDA_ERROR_OUT_OF_MEM") as caught:
            for buffer in (buffers.images, buffers.logits):
                buffer.reserve(100)
        assert caught.value.is_out_of_memory
        assert "Free some" in caught.value.hint
        buffers.logits.reserve(100)  # a failed allocation breaks nothing
        cuda.download(buffers.logits, (5,))
    assert "device memory" not in stub.live()
    with pytest.raises(CudaFailure, match="out of memory"):
        cuda.allocate(1 << 30)  # more than the card has


def test_events_time_the_work_between_them(stub: Stub, cuda: Cuda) -> None:
    def enqueue() -> None:
        for _ in range(3):
            assert stub.launch(cuda.stream, lambda: None) == 0

    assert cuda.time(enqueue) == 3.0
    assert cuda.time(enqueue, 40) == 120.0


def test_an_idle_stream_has_done_its_work(stub: Stub, cuda: Cuda) -> None:
    assert cuda.is_idle()
    stub.launch(cuda.stream, lambda: None)
    assert not cuda.is_idle()
    cuda.synchronize()
    assert cuda.is_idle()


def test_graph_replays_what_was_captured(stub: Stub, cuda: Cuda) -> None:
    ran: list[str] = []
    graph = cuda.capture(lambda: stub.launch(cuda.stream, lambda: ran.append("kernel")))
    cuda.synchronize()
    assert ran == []
    with closing(graph):
        assert cuda.time(graph.launch) == cuda.time(graph.launch) == 1.0
        assert ran == ["kernel"] * 2
        assert stub.live() == {**OPENED, "executables": 1, "current contexts": 1}


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("cuStreamBeginCapture", 900),
        ("cuStreamEndCapture", 901),
        ("cuGraphInstantiate", OUT_OF_MEMORY),
    ],
)
def test_capture_that_fails_leaves_nothing(
    stub: Stub, cuda: Cuda, fail, call: str, error: int
) -> None:
    fail(call, 1, error)
    with pytest.raises(CudaFailure, match=f"CUDA: {call}"):
        cuda.capture(lambda: None)
    assert stub.live() == {**OPENED, "current contexts": 1}
    cuda.synchronize()


def test_capture_that_was_invalidated_or_raised_leaves_nothing(stub: Stub, cuda: Cuda) -> None:
    def synchronise() -> None:
        with pytest.raises(CudaFailure):
            cuda.synchronize()

    with pytest.raises(CudaFailure, match="cuStreamEndCapture"):
        cuda.capture(synchronise)
    with pytest.raises(ZeroDivisionError):
        cuda.capture(lambda: 1 / 0)
    assert stub.live() == {**OPENED, "current contexts": 1}
    cuda.synchronize()  # the stream is not being captured any more


def test_launch_that_fails_ends_the_context_and_everything_in_it(stub: Stub, fail) -> None:
    with closing(Cuda()) as cuda, cuda.activate():
        graph = cuda.capture(lambda: None)
        fail("cuGraphLaunch", 1, LAUNCH_FAILED)
        with pytest.raises(CudaFailure) as caught:
            graph.launch()
        assert caught.value.error == "CUDA_ERROR_LAUNCH_FAILED"
        assert not caught.value.is_out_of_memory
        with pytest.raises(CudaFailure, match="cuMemAlloc failed: CUDA_ERROR_LAUNCH_FAILED"):
            cuda.allocate(4)
        graph.close()
    assert stub.live() == {}
    with closing(Cuda()) as again, again.activate():
        again.allocate(4).close()


def test_stub_tells_of_work_on_freed_memory(cuda: Cuda) -> None:
    with closing(StagedBuffer(cuda)) as buffer:
        buffer.reserve(16)
        address = buffer.device.address
        cuda.upload(np.zeros(4, np.float32), buffer)
        buffer.device.address = address + 1_000_000  # not its memory
        cuda.upload(np.zeros(4, np.float32), buffer)
        with pytest.raises(CudaFailure, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
            cuda.synchronize()
