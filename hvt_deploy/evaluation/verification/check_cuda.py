"""Section `cuda`: our CUDA layer, with kernels whose result and duration are known."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.errors import MissingEnvironment
from hvt_deploy.core.gpus import Gpu, find_gpus
from hvt_deploy.evaluation.verification.checks import CheckList, Fact, expect
from hvt_deploy.evaluation.verification.cuda_work import replay_scaling
from hvt_deploy.evaluation.verification.nvrtc_kernels import NvrtcKernels
from hvt_deploy.evaluation.verification.torch_cuda import read_with_torch, time_with_torch
from hvt_deploy.runtime.tensorrt.cuda import Cuda, CudaFailure, StagedBuffer

_WORK = "hvt_deploy.evaluation.verification.cuda_work"
_SANITIZER_FOLDER = Path("/usr/local/cuda/bin")
_SPIN_MS = 20
# The launch of a kernel and the resolution of %globaltimer (up to 1 ms on some GPUs).
_SPIN_TOLERANCE_MS = 1.0
# Two events around the same work, each with its own launch gap.
_SAME_WORK_TOLERANCE = 0.03
_CYCLES = 20
# The driver takes memory in steps of 2 MiB, and keeps some of it for local memory of kernels.
_LEAK_TOLERANCE_MIB = 4
_CHILD_LIMIT_S = 60
# What compute-sanitizer prints in sandboxes and virtual machines whose GPU it cannot observe.
_NOT_OBSERVED = "Device not supported"


def check_cuda(checks: CheckList) -> None:
    """Copies, kernels, events, captured graphs, full memory, what is given back, and errors."""
    gpu = find_gpus()[0]
    with checks.check("memory back at start") as measured:
        _check_leaks(gpu, measured)
    with checks.check("context given back"):
        _expect_no_context()
    with closing(Cuda()) as cuda, cuda.activate():
        _check_copies(checks, cuda, gpu)
        with checks.check("captured graph"), closing(_load(cuda, gpu)) as kernels:
            replay_scaling(cuda, kernels)
        with checks.check("events") as measured, closing(_load(cuda, gpu)) as kernels:
            _check_events(cuda, kernels, measured)
        with checks.check("PyTorch's events") as measured, closing(_load(cuda, gpu)) as kernels:
            _compare_events(cuda, kernels, measured)
        with checks.check("memory shared with PyTorch"), closing(StagedBuffer(cuda)) as buffer:
            values = _draw((1000,))
            buffer.reserve(values.nbytes)
            cuda.upload(values, buffer)
            cuda.synchronize()
            theirs = read_with_torch(buffer.device.address, values.size)
            expect(np.array_equal(theirs, values), "PyTorch reads other values.")
    with checks.check("error of a kernel") as measured:
        measured["error"] = _run_child([sys.executable, "-m", _WORK, "fault"]).strip()
        expect(
            measured["error"] == "CUDA_ERROR_ILLEGAL_ADDRESS",
            f"Writing to address 0 gave the error '{measured['error']}'.",
        )
    with checks.check("compute-sanitizer") as measured:
        _run_sanitizer(measured)


def _check_copies(checks: CheckList, cuda: Cuda, gpu: Gpu) -> None:
    with checks.check("copies"), closing(StagedBuffer(cuda)) as buffer:
        for shape in ((1,), (7, 3, 224, 224), (64, 3, 224, 224)):
            _expect_round_trip(cuda, buffer, _draw(shape))
        _expect_round_trip(cuda, buffer, np.transpose(_draw((30, 50))))  # not contiguous
    with checks.check("copies of another thread"):
        failures: list[Exception] = []

        def copy() -> None:
            try:
                with cuda.activate(), closing(StagedBuffer(cuda)) as buffer:
                    _expect_round_trip(cuda, buffer, _draw((8, 3, 32, 32)))
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=copy)
        thread.start()
        thread.join()
        for failure in failures:
            raise failure
    with checks.check("full memory"), closing(StagedBuffer(cuda)) as buffer:
        try:
            cuda.allocate((gpu.memory_mib + 1024) << 20).close()
        except CudaFailure as failure:
            expect(failure.is_out_of_memory, f"It is reported as {failure.error}.")
        else:
            expect(False, "More memory was allocated than the GPU has.")
        _expect_round_trip(cuda, buffer, _draw((100,)))


def _expect_round_trip(cuda: Cuda, buffer: StagedBuffer, values: NDArray[np.float32]) -> None:
    buffer.reserve(values.nbytes)
    cuda.upload(values, buffer)
    expect(
        np.array_equal(cuda.download(buffer, values.shape), values),
        f"An array of shape {values.shape} comes back with other values.",
    )


def _check_events(cuda: Cuda, kernels: NvrtcKernels, measured: dict[str, Fact]) -> None:
    """A kernel of known duration, by our events and by the host's clock."""
    kernels.spin(1)
    cuda.synchronize()
    started = time.perf_counter()
    event_ms = cuda.time(lambda: kernels.spin(_SPIN_MS))
    host_ms = (time.perf_counter() - started) * 1000
    measured.update(kernel_ms=_SPIN_MS, event_ms=event_ms, host_ms=host_ms)
    expect(
        abs(event_ms - _SPIN_MS) <= _SPIN_TOLERANCE_MS,
        f"Events give {event_ms:.3f} ms for a kernel of {_SPIN_MS} ms.",
    )


def _compare_events(cuda: Cuda, kernels: NvrtcKernels, measured: dict[str, Fact]) -> None:
    def enqueue() -> None:
        kernels.spin(_SPIN_MS)

    torch_ms = time_with_torch(cuda.stream, enqueue)
    ours_ms = cuda.time(enqueue)
    measured.update(ours_ms=ours_ms, pytorch_ms=torch_ms)
    expect(
        abs(ours_ms / torch_ms - 1) <= _SAME_WORK_TOLERANCE,
        f"Our events give {ours_ms:.3f} ms, PyTorch's {torch_ms:.3f} ms for the same work.",
    )


def _check_leaks(gpu: Gpu, measured: dict[str, Fact]) -> None:
    """Free memory before and after layers were opened, used and closed, one context kept open."""

    def work() -> None:
        with closing(Cuda()) as cuda, cuda.activate(), closing(_load(cuda, gpu)) as kernels:
            replay_scaling(cuda, kernels)
            with closing(StagedBuffer(cuda)) as buffer:
                buffer.reserve(8 << 20)

    with closing(Cuda()) as keeper, keeper.activate():
        work()  # what the first one needs stays
        before_mib = _free_mib()
        for _ in range(_CYCLES):
            work()
        lost_mib = before_mib - _free_mib()
    measured.update(cycles=_CYCLES, lost_mib=lost_mib)
    expect(lost_mib <= _LEAK_TOLERANCE_MIB, f"{lost_mib:.1f} MiB are not given back.")


def _expect_no_context() -> None:
    driver: Any = importlib.import_module("cuda.bindings.driver")
    _, device = driver.cuDeviceGet(0)
    _, _, active = driver.cuDevicePrimaryCtxGetState(device)
    expect(not active, "The primary context stays active after everything was closed.")


def _free_mib() -> float:
    driver: Any = importlib.import_module("cuda.bindings.driver")
    error, free, _ = driver.cuMemGetInfo()
    expect(error == driver.CUresult.CUDA_SUCCESS, f"cuMemGetInfo failed: {error}")
    return free / 2**20


def _run_sanitizer(measured: dict[str, Fact]) -> None:
    found = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path=str(_SANITIZER_FOLDER)
    )
    if found is None:
        raise MissingEnvironment("compute-sanitizer is not on the PATH.", "It is part of CUDA.")
    options = ["--tool", "memcheck", "--leak-check", "full", "--error-exitcode", "9"]
    output = _run_child([found, *options, sys.executable, "-m", _WORK])
    summary = [line.strip() for line in output.splitlines() if "ERROR SUMMARY" in line]
    measured["summary"] = " ".join(summary)
    expect(any("SUMMARY: 0 errors" in line for line in summary), f"It reports:\n{output[-1000:]}")


def _run_child(command: list[str]) -> str:
    """What a command prints.

    Raises CheckFailed with its end where it fails, MissingEnvironment where compute-sanitizer
    cannot observe the GPU.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_CHILD_LIMIT_S
    )
    output = done.stdout + done.stderr
    if _NOT_OBSERVED in output:
        raise MissingEnvironment(f"{Path(command[0]).name} cannot observe the GPU here.")
    expect(done.returncode == 0, f"It ended with {done.returncode}:\n{output[-1000:]}")
    return done.stdout


def _load(cuda: Cuda, gpu: Gpu) -> NvrtcKernels:
    return NvrtcKernels(cuda, gpu.compute_capability)


def _draw(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(len(shape)).standard_normal(shape, dtype=np.float32)
