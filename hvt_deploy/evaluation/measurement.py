"""The same images through every backend: opened once, decoded once, counted as they go."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.environment import cpu_count
from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.core.ui import Ui
from hvt_deploy.data.images import Batch, BatchLoader, make_thumbnail
from hvt_deploy.data.sampling import hash_contents
from hvt_deploy.evaluation.accuracy import AccuracyMeter
from hvt_deploy.evaluation.candidates import Candidate
from hvt_deploy.evaluation.image_answers import ImageAnswers
from hvt_deploy.evaluation.memory import MemoryMeter
from hvt_deploy.evaluation.pixel_difference import PixelsMeter
from hvt_deploy.evaluation.record import Row
from hvt_deploy.evaluation.reference_logits import RecordedLogits
from hvt_deploy.evaluation.scores import Fidelity
from hvt_deploy.runtime.base import AnyBackend, Backend, PixelsBackend, PlacedBackend


@dataclass(frozen=True)
class Opened:
    """A row of a validation with its backend."""

    row: Row
    backend: AnyBackend | None
    """None where it cannot run; `row.skipped` says why."""
    timed: bool
    recorded: RecordedLogits | None = None
    """Logits in place of a reference that cannot run here."""

    @property
    def gives_logits(self) -> bool:
        """Whether there is anything to measure."""
        return self.backend is not None or self.recorded is not None


@dataclass(frozen=True, eq=False)
class MeasuredImages:
    """The rows with their accuracy, and what is kept of single images."""

    rows: tuple[Row, ...]
    answers: ImageAnswers
    reference_logits: RecordedLogits
    """Empty unless they were to be recorded."""
    images_NCHW: ImagesNCHW  # noqa: N815
    """The first batch, to time inference with."""


@contextmanager
def open_candidates(
    candidates: Sequence[Candidate], memory: MemoryMeter, ui: Ui
) -> Generator[tuple[Opened, ...]]:
    """Open every backend; one that cannot be opened here becomes a skipped row.

    The reference stays first; where PyTorch cannot run, the first backend that can takes its place.
    Raises MissingEnvironment where none can run.
    """
    with ExitStack() as stack:
        opened: list[Opened] = []
        with ui.progress(f"Opening {len(candidates)} backends") as progress:
            for done, candidate in enumerate(candidates, start=1):
                opened.append(_open(candidate, memory, stack))
                progress(done, len(candidates))
        if not any(one.backend for one in opened):
            reasons = "; ".join(f"{one.row.backend}: {one.row.skipped}" for one in opened)
            hint = "Ask `hvt-deploy doctor` what is missing."
            raise MissingEnvironment(f"No backend can run here. {reasons}", hint)
        opened.sort(key=lambda one: not one.gives_logits)
        reference = opened[0].row
        if reference.variant.runtime != "pytorch":
            ui.warn(
                f"PyTorch cannot run here: everything is compared with {reference.backend} instead."
            )
        yield tuple(opened)


def _open(candidate: Candidate, memory: MemoryMeter, stack: ExitStack) -> Opened:
    row = candidate.row
    if candidate.open is None:
        return Opened(row, None, timed=False, recorded=candidate.recorded)
    try:
        with memory.watch(row.backend, row.variant.device):
            backend = stack.enter_context(closing(candidate.open()))
    except MissingEnvironment as error:
        skipped = f"{error.message} {error.hint}".strip()
        return Opened(replace(row, skipped=skipped), None, timed=False)
    if isinstance(backend, PlacedBackend) and backend.placement is not None:
        placement = backend.placement
        note = f"{row.note} {placement.sentence}".strip()
        row = replace(row, note=note, placement=placement.providers)
    return Opened(row, backend, candidate.timed)


def measure_images(
    opened: Sequence[Opened],
    loader: BatchLoader,
    classes_K: NDArray[np.int64],
    memory: MemoryMeter,
    ui: Ui,
    *,
    keep_reference: bool,
    announce: Callable[[float], None],
) -> MeasuredImages:
    """Every image once through every backend.

    `classes_K` are the classes whose logits are compared, ascending. `announce` is given the
    seconds that one image takes in all backends. Raises BadInput if no image can be read.
    """
    running = [one for one in opened if one.gives_logits]
    reference = running[0].row.backend
    inputs = [_Input(one, loader) for one in running]
    meter = AccuracyMeter(reference, [one.row.backend for one in running[1:]], len(classes_K))
    batches = iter(loader)
    first = next(batches, None)
    if first is None:
        raise BadInput("None of the images can be read.", "Give a folder with readable images.")
    announce(_run_once(running, first.images_NCHW, memory) / len(first.samples))
    kept: dict[str, NDArray[np.float32]] = {}
    done = 0
    with ui.progress(f"Validating {len(loader.samples)} images") as progress:
        for batch in chain([first], batches):
            logits = {one.name: one.infer(batch) for one in inputs}
            if keep_reference:
                kept.update(zip(_hashes(batch), logits[reference], strict=True))
            meter.update(
                {name: logits_NK[:, classes_K] for name, logits_NK in logits.items()},
                np.searchsorted(classes_K, batch.labels_N),
                [sample.path.as_posix() for sample in batch.samples],
            )
            done += len(batch.samples)
            progress(done, len(loader.samples))
    measured = {one.name: _filled(one, meter, memory, done) for one in inputs}
    rows = tuple(measured.get(one.row.backend, one.row) for one in opened)
    return MeasuredImages(rows, meter.answers(), RecordedLogits(kept), first.images_NCHW)


class _Input:
    """Gives a backend the images of a batch in the form that it takes."""

    def __init__(self, opened: Opened, loader: BatchLoader) -> None:
        self.row, self.name = opened.row, opened.row.backend
        self._recorded = opened.recorded
        self._backend = opened.backend
        self.pixels = (
            PixelsMeter(opened.backend, loader.preprocessing)
            if isinstance(opened.backend, PixelsBackend)
            else None
        )

    def infer(self, batch: Batch) -> LogitsNK:
        """Logits (N, K) in float32."""
        paths = [sample.path for sample in batch.samples]
        if self._recorded is not None:
            return self._recorded.of(_hashes(batch), paths)
        if self.pixels is not None:
            return self.pixels.infer(paths, batch.images_NCHW)
        if self._backend is None or isinstance(self._backend, PixelsBackend):
            raise ValueError(f"{self.name} was not opened.")
        return self._backend.infer(batch.images_NCHW)


def _filled(one: _Input, meter: AccuracyMeter, memory: MemoryMeter, images: int) -> Row:
    fidelity = meter.fidelity(one.name)
    return replace(
        one.row,
        images=images,
        accuracy=meter.accuracy(one.name),
        fidelity=fidelity and _with_thumbnails(fidelity),
        memory_mib=memory.mib.get(one.name),
        pixel_difference=one.pixels.difference if one.pixels else None,
    )


def _run_once(opened: Sequence[Opened], images_NCHW: ImagesNCHW, memory: MemoryMeter) -> float:
    """Run every backend once, for the costs of a first run; the seconds of all together."""
    start = time.perf_counter()
    for one in opened:
        if one.backend is not None and not isinstance(one.backend, PixelsBackend):
            with memory.watch(one.row.backend, one.row.variant.device):
                one.backend.infer(images_NCHW)
    return time.perf_counter() - start


def select_timed_backends(opened: Sequence[Opened]) -> dict[str, Backend]:
    """The backends whose latency is measured, by name."""
    return {
        one.row.backend: one.backend
        for one in opened
        if one.timed and one.backend is not None and not isinstance(one.backend, PixelsBackend)
    }


def _hashes(batch: Batch) -> list[str]:
    return hash_contents([sample.path for sample in batch.samples], cpu_count())


def _with_thumbnails(fidelity: Fidelity) -> Fidelity:
    flips = (replace(flip, thumbnail=_thumbnail(flip.path)) for flip in fidelity.flips)
    return replace(fidelity, flips=tuple(flips))


@lru_cache(maxsize=256)  # backends often stumble over the same images
def _thumbnail(path: str) -> str:
    return make_thumbnail(Path(path))
