"""Latencies of opened backends at several batch sizes, with an eye on the GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.core.types import Device
from hvt_deploy.core.ui import Ui
from hvt_deploy.data.images import repeat_to
from hvt_deploy.evaluation.gpu_reading import GpuReader
from hvt_deploy.evaluation.gpu_state import GpuMonitor
from hvt_deploy.evaluation.latency import KEPT_ROUNDS, measure_latency
from hvt_deploy.evaluation.machine_load import LoadMeter
from hvt_deploy.evaluation.scores import Latency
from hvt_deploy.runtime.base import Backend, BoundCall
from hvt_deploy.runtime.failures import breaks_cuda, explain_failure


@dataclass(frozen=True)
class TimedBackend:
    """A backend whose latency is measured."""

    backend: Backend
    """The opened backend."""
    device: Device
    """Where it runs."""


@dataclass(frozen=True)
class Timings:
    """Latencies by backend, in the order of the batch sizes."""

    latency: Mapping[str, tuple[Latency, ...]]
    """By display name of the backend, one for each batch size."""
    warnings: tuple[str, ...] = ()
    """Sentences about unstable or disturbed measurements."""
    not_timed: Mapping[str, str] = field(default_factory=dict[str, str])
    """Why a backend has no latency at one of the sizes."""


@dataclass(frozen=True)
class WatchedGpu:
    """The GPU that backends run on."""

    name: str
    """Product name."""
    reader: GpuReader
    """Reads its clocks."""


def time_backends(
    backends: Mapping[str, TimedBackend],
    images_NCHW: ImagesNCHW,
    batches: Sequence[int],
    gpu: WatchedGpu | None,
    threads: int,
    ui: Ui,
) -> Timings:
    """Time all backends, interleaved, at every batch size; the images are repeated to it.

    `threads` is how many each of them has on the CPU.

    A backend that does not take a size (an engine's profile) or fails there is left out there, with
    a warning. After an error that leaves CUDA unusable only the CPU's backends are timed.
    """
    session = _Session(backends)
    found: dict[str, list[Latency]] = {name: [] for name in backends}
    for batch in batches:
        bound = session.bind(repeat_to(images_NCHW, batch))
        read = gpu.reader.read if gpu else None
        monitor = GpuMonitor(gpu.name, read, KEPT_ROUNDS) if gpu and read else None
        load = LoadMeter()
        with ui.progress(f"Measuring latency at batch {batch}") as progress:
            measured = measure_latency(
                bound,
                batch,
                progress=progress,
                after_window=monitor.observe if monitor else None,
                on_failure=session.fail,
            )
        others = load.read_others()
        for name, latency in measured.items():
            share = others if threads > 1 and latency.gpu is None else None
            found[name].append(replace(_with_state(latency, monitor, name), others_share=share))
    warnings = [*session.warnings, *(gpu.reader.notes if gpu else ())]
    timed = [latency.gpu for some in found.values() for latency in some if latency.gpu]
    if gpu is not None and not all(one.state for one in timed):
        warnings.append(
            f"The clocks of {gpu.name} could not be read: nothing shows that they did not move."
        )
    return Timings(
        {name: tuple(some) for name, some in found.items() if some},
        tuple(warnings),
        session.not_timed,
    )


def _with_state(latency: Latency, monitor: GpuMonitor | None, name: str) -> Latency:
    """With the GPU's state in the windows of this backend, where it ran on the GPU."""
    if latency.gpu is None or monitor is None:
        return latency
    return replace(latency, gpu=replace(latency.gpu, state=monitor.state(name)))


class _Session:
    """The backends at one batch size after the other, without those that failed."""

    def __init__(self, backends: Mapping[str, TimedBackend]) -> None:
        self._backends = backends
        self._batch = 0
        self._cuda_broken_by = ""
        self.warnings: list[str] = []
        self.not_timed: dict[str, str] = {}

    def bind(self, images_NCHW: ImagesNCHW) -> dict[str, BoundCall]:
        """The calls of those that take this many images, by name."""
        self._batch = len(images_NCHW)
        bound: dict[str, BoundCall] = {}
        for name, one in self._backends.items():
            if self._cuda_broken_by and one.device == "cuda":
                self._leave_out(name, self._cuda_broken_by)
                continue
            try:
                bound[name] = one.backend.bind(images_NCHW)
            except BadInput as error:
                self._leave_out(name, error.message)
            except Exception as error:
                for ended in self.fail(name, error):
                    bound.pop(ended, None)
        return bound

    def fail(self, name: str, error: Exception) -> list[str]:
        """Note why a backend is not timed; the names of all that end with it at this size."""
        self._leave_out(name, explain_failure(error))
        if not breaks_cuda(error) or self._cuda_broken_by:
            return [name]
        self._cuda_broken_by = f"CUDA is unusable since {name} failed: {explain_failure(error)}"
        others = [
            other for other, one in self._backends.items() if one.device == "cuda" and other != name
        ]
        for other in others:
            self._leave_out(other, self._cuda_broken_by)
        return [name, *others]

    def _leave_out(self, name: str, why: str) -> None:
        warning = f"{name} was not timed at batch {self._batch}: {why}"
        if warning not in self.warnings:
            self.warnings.append(warning)
            self.not_timed.setdefault(name, f"Not timed at batch {self._batch}: {why}")
