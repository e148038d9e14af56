"""Several batch sizes, with backends that sleep; and that interleaving does not slow a real backend
down.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.tensors import Signature
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.evaluation import timing
from hvt_deploy.evaluation.gpu_reading import GpuReader, GpuReading
from hvt_deploy.evaluation.latency import Latency, measure_latency
from hvt_deploy.evaluation.memory import MemoryMeter
from hvt_deploy.evaluation.timing import TimedBackend, WatchedGpu, time_backends
from hvt_deploy.runtime.base import BackendRequest, BoundCall, DeviceCall, Launches
from hvt_deploy.runtime.ort import OrtBackend
from hvt_deploy.runtime.pytorch import PyTorchBackend
from hvt_deploy.runtime.variant import Variant

IMAGES = np.zeros((2, 3, 4, 4), np.float32)


@dataclass
class Sleeper:
    """Takes `ms` for an image, and batches up to `most`."""

    name: str
    ms: float
    most: int = 99

    def infer(self, images_NCHW: np.ndarray) -> np.ndarray:
        return np.zeros((len(images_NCHW), 2), np.float32)

    def bind(self, images_NCHW: np.ndarray) -> BoundCall:
        if len(images_NCHW) > self.most:
            raise BadInput(
                f"{self.name} takes batches of 1 to {self.most} images, not {len(images_NCHW)}."
            )
        return lambda: time.sleep(self.ms * len(images_NCHW) / 1000)

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(bound, batch, **options):
        return measure_latency(bound, batch, budget_s=0.5, **options)

    monkeypatch.setattr(timing, "measure_latency", short)
    monkeypatch.setattr(timing.LoadMeter, "read_others", lambda _: 0.01)


@pytest.mark.parametrize(("threads", "recorded"), [(2, 0.42), (1, None)])
def test_work_of_other_processes_is_recorded_where_it_slows(
    monkeypatch: pytest.MonkeyPatch, threads: int, recorded: float | None
) -> None:
    """Measured: a single thread is as fast next to two busy processes on two cores as alone."""
    monkeypatch.setattr(timing.LoadMeter, "read_others", lambda _: 0.42)
    backends = {"ort": TimedBackend(Sleeper("ort", 1), "cpu")}
    found = time_backends(backends, IMAGES, (1,), None, threads, SilentUi())
    assert found.latency["ort"][0].others_share == recorded


def test_every_batch_size_has_its_latency_and_a_size_that_is_too_large_is_told() -> None:
    backends = {
        "ort": TimedBackend(Sleeper("ort", 1), "cpu"),
        "trt": TimedBackend(Sleeper("trt", 0.5, most=2), "cuda"),
    }
    found = time_backends(backends, IMAGES, (1, 4), None, 2, SilentUi())
    assert [latency.batch for latency in found.latency["ort"]] == [1, 4]
    assert [latency.batch for latency in found.latency["trt"]] == [1]
    assert found.latency["ort"][1].median >= 4
    assert found.warnings == (
        "trt was not timed at batch 4: trt takes batches of 1 to 2 images, not 4.",
    )


@dataclass
class Failing(Sleeper):
    """Its calls raise `error` from the one of number `fails_at` on."""

    error: Exception = field(default_factory=RuntimeError)
    fails_at: int = 1
    calls: int = 0

    def bind(self, images_NCHW: np.ndarray) -> BoundCall:
        def call() -> None:
            self.calls += 1
            if self.calls >= self.fails_at:
                raise self.error

        call()
        return call


@pytest.mark.parametrize("fails_at", [1, 30])
def test_a_failure_leaves_out_a_size_and_a_sticky_cuda_error_every_gpu_row(fails_at: int) -> None:
    full = RuntimeError("CUDA out of memory.")
    lost = RuntimeError("CUDA error: unspecified launch failure")
    ort, other = Sleeper("ort", 1), Sleeper("other", 1)
    failing = {
        "ort": TimedBackend(ort, "cpu"),
        "other": TimedBackend(other, "cuda"),
        "trt": TimedBackend(Failing("trt", 1, error=full, fails_at=fails_at), "cuda"),
    }
    found = time_backends(failing, IMAGES, (1,), None, 2, SilentUi())
    assert set(found.latency) == {"ort", "other"}
    assert found.not_timed == {"trt": "Not timed at batch 1: RuntimeError: CUDA out of memory."}
    failing["trt"] = TimedBackend(Failing("trt", 1, error=lost, fails_at=fails_at), "cuda")
    found = time_backends(failing, IMAGES, (1, 2), None, 2, SilentUi())
    assert set(found.latency) == {"ort"}
    assert [latency.batch for latency in found.latency["ort"]] == [1, 2]
    assert "CUDA is unusable since trt failed" in found.not_timed["other"]
    assert [w.partition(":")[0] for w in found.warnings] == [
        "trt was not timed at batch 1",
        "other was not timed at batch 1",
        "other was not timed at batch 2",
        "trt was not timed at batch 2",
    ]


@dataclass
class OnCard(Sleeper):
    """A Sleeper that a GPU times."""

    def bind(self, images_NCHW: np.ndarray) -> BoundCall:
        def time_launches(launches: int) -> float:
            time.sleep(self.ms * launches / 1000)
            return self.ms * launches

        launches = Launches(cuda_graph=True)
        return DeviceCall(time_launches, lambda: self.infer(images_NCHW), launches)


def test_the_gpu_is_looked_at_in_the_windows_of_each_row() -> None:
    clocks = iter(range(1000, 9000))
    gpu = WatchedGpu("Some GPU", GpuReader(lambda: GpuReading(next(clocks), 100, 50)))
    backends = {
        "trt": TimedBackend(OnCard("trt", 2), "cuda"),
        "torch": TimedBackend(OnCard("torch", 2), "cuda"),
        "ort": TimedBackend(Sleeper("ort", 2), "cpu"),
    }
    found = time_backends(backends, IMAGES, (1, 2), gpu, 2, SilentUi())
    trt, torch = (
        [one.gpu.state for one in found.latency[name] if one.gpu] for name in ("trt", "torch")
    )
    assert len(trt) == len(torch) == 2
    assert trt[0].sm_mhz[1] < trt[1].sm_mhz[0], "batch 2 comes after batch 1"
    assert trt[0].median_sm_mhz != torch[0].median_sm_mhz
    assert found.latency["ort"][0].gpu is None
    assert found.latency["ort"][0].others_share == 0.01
    assert found.latency["trt"][0].others_share is None
    assert found.warnings == ()


def test_a_gpu_that_cannot_be_read_is_told() -> None:
    gpu = WatchedGpu("Some GPU", GpuReader(None, ("NVML: Not Supported.",)))
    trt = TimedBackend(OnCard("trt", 2), "cuda")
    found = time_backends({"trt": trt}, IMAGES, (1,), gpu, 2, SilentUi())
    assert found.latency["trt"][0].gpu.state is None
    assert found.warnings[0] == "NVML: Not Supported."
    assert "could not be read" in found.warnings[1]


def test_memory_is_what_was_added_and_kept() -> None:
    # In a process of its own: of the two gigabytes of this one the system may take pages back.
    script = """
import numpy as np
from hvt_deploy.evaluation.memory import MemoryMeter
meter, kept = MemoryMeter(None), []
for _ in range(2):
    with meter.watch("ort", "cpu"):
        kept.append(np.ones(8 * 2**20))  # 64 MiB
with meter.watch("trt", "cuda"):
    pass
print(*meter.mib, meter.mib["ort"])
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured, mib = done.stdout.split()
    assert float(mib) == pytest.approx(128, abs=10)
    assert measured == "ort", "a GPU that cannot be read has no memory"


def test_memory_on_a_gpu_is_that_of_the_gpu() -> None:
    used = iter((100.0, 356.0))
    meter = MemoryMeter(lambda: GpuReading(1000, 1, 1, (), next(used)))
    with meter.watch("trt", "cuda"):
        pass
    assert meter.mib == {"trt": 256.0}


@pytest.mark.slow
def test_a_backends_median_interleaved_is_that_of_it_alone(tmp_path) -> None:
    """Pools of threads that go on spinning after their turn would take the processors from the
    others.

    A neighbour on the machine may disturb one attempt; it does not disturb four.
    """
    from torch import nn

    module = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    ).eval()
    signature = Signature((96, 96), 10)
    path = export(module, tmp_path / "model.onnx")
    backends = {
        "ort": OrtBackend(BackendRequest(Variant("ort", "cpu", "fp32"), path, "m", signature, 2)),
        "pytorch": PyTorchBackend(Variant("pytorch", "cpu", "fp32"), module, 2),
    }
    bound = {
        name: backend.bind(np.zeros((1, 3, 96, 96), np.float32))
        for name, backend in backends.items()
    }

    def measure(*names: str) -> dict[str, Latency]:
        return measure_latency({name: bound[name] for name in names}, 1, budget_s=10)

    ratios: list[float] = []
    for _ in range(4):
        alone, together = measure("ort")["ort"], measure("ort", "pytorch")["ort"]
        ratios.append(together.median / alone.median)
        if abs(ratios[-1] - 1) <= 0.15:
            return
    pytest.fail(f"Interleaved over alone, four times: {ratios}")


def export(module, path):
    import torch

    torch.onnx.export(
        module,
        (torch.zeros(2, 3, 96, 96),),
        path,
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    return path
