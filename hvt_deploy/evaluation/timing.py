"""Latencies of opened backends at several batch sizes, with an eye on the GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.core.ui import Ui
from hvt_deploy.data.images import repeat_to
from hvt_deploy.evaluation.gpu_reading import GpuReader
from hvt_deploy.evaluation.gpu_state import GpuMonitor
from hvt_deploy.evaluation.latency import KEPT_ROUNDS, measure_latency
from hvt_deploy.evaluation.record import GpuState
from hvt_deploy.evaluation.scores import Latency
from hvt_deploy.runtime.base import Backend, BoundCall


@dataclass(frozen=True)
class Timings:
    """Latencies by backend, in the order of the batch sizes, and the GPU state during each."""

    latency: Mapping[str, tuple[Latency, ...]]
    gpu: tuple[GpuState, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class WatchedGpu:
    """The GPU that backends run on."""

    name: str
    """Product name."""
    reader: GpuReader
    """Reads its clocks."""


def time_backends(
    backends: Mapping[str, Backend],
    images_NCHW: ImagesNCHW,
    batches: Sequence[int],
    gpu: WatchedGpu | None,
    ui: Ui,
) -> Timings:
    """Time all backends, interleaved, at every batch size; the images are repeated to it.

    A backend that does not take a size (an engine's profile) is left out there, with a warning.
    """
    found: dict[str, list[Latency]] = {name: [] for name in backends}
    states: list[GpuState] = []
    warnings: list[str] = []
    for batch in batches:
        bound = _bind(backends, repeat_to(images_NCHW, batch), warnings)
        read = gpu.reader.read if gpu else None
        monitor = GpuMonitor(gpu.name, read, KEPT_ROUNDS * len(bound)) if gpu and read else None
        observe = monitor.observe if monitor else None
        with ui.progress(f"Measuring latency at batch {batch}") as progress:
            for name, latency in measure_latency(
                bound, batch, progress=progress, after_window=observe
            ).items():
                found[name].append(latency)
        state = monitor.state(batch) if monitor else None
        states += [state] if state else []
    if gpu is not None:
        warnings += gpu.reader.notes
    if gpu is not None and len(states) < len(batches):
        warnings.append(
            f"The clocks of {gpu.name} could not be read: nothing shows that they did not move."
        )
    return Timings(
        {name: tuple(some) for name, some in found.items() if some}, tuple(states), tuple(warnings)
    )


def _bind(
    backends: Mapping[str, Backend], images_NCHW: ImagesNCHW, warnings: list[str]
) -> dict[str, BoundCall]:
    bound: dict[str, BoundCall] = {}
    for name, backend in backends.items():
        try:
            bound[name] = backend.bind(images_NCHW)
        except BadInput as error:
            warnings.append(f"{name} was not timed at batch {len(images_NCHW)}: {error.message}")
    return bound
