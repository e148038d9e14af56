"""The same images through every backend: decoded once, counted as they go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.environment import cpu_count
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.core.ui import Ui
from hvt_deploy.data.images import Batch, BatchLoader, make_thumbnail
from hvt_deploy.data.sampling import hash_contents
from hvt_deploy.evaluation.accuracy import AccuracyMeter
from hvt_deploy.evaluation.image_answers import ImageAnswers
from hvt_deploy.evaluation.memory import MemoryMeter
from hvt_deploy.evaluation.opened_rows import OpenedRow, OpenedRows
from hvt_deploy.evaluation.pixel_difference import PixelsMeter
from hvt_deploy.evaluation.record import Row
from hvt_deploy.evaluation.reference_logits import RecordedLogits
from hvt_deploy.evaluation.scores import Fidelity
from hvt_deploy.runtime.base import PixelsBackend


@dataclass(frozen=True, eq=False)
class MeasuredImages:
    """The rows with their accuracy, and what is kept of single images."""

    rows: tuple[Row, ...]
    """The reference first."""
    answers: ImageAnswers
    """The predicted class of each image, by backend."""
    reference_logits: RecordedLogits
    """Empty unless they were to be recorded."""
    images_NCHW: ImagesNCHW  # noqa: N815
    """The first batch, to time inference with."""


def measure_images(
    opened: OpenedRows,
    loader: BatchLoader,
    classes_K: NDArray[np.int64],
    memory: MemoryMeter,
    ui: Ui,
    *,
    keep_reference: bool,
    announce: Callable[[float], None],
) -> MeasuredImages:
    """Every image once through every backend; a backend that fails is ended, the others go on.

    `classes_K` are the classes whose logits are compared, ascending. `announce` is given the
    seconds that one image takes in all backends. Where the reference itself fails, the next row
    takes its place and counting begins anew. Raises BadInput if no image can be read, and where no
    row is left as `OpenedRows.settle_reference` does.
    """
    batches = iter(loader)
    first = next(batches, None)
    if first is None:
        raise BadInput("None of the images can be read.", "Give a folder with readable images.")
    announce(_run_once(opened, first.images_NCHW, memory) / len(first.samples))
    opened.settle_reference()
    pass_ = _Pass(opened, loader, classes_K, ui, keep_reference)
    while not pass_.count(chain([first], batches)):
        opened.settle_reference()
        batches = iter(loader)
        first = next(batches)
        pass_ = _Pass(opened, loader, classes_K, ui, keep_reference)
    return pass_.finish(memory, first.images_NCHW)


class _Pass:
    """One run over all images, with the reference that ran when it began."""

    def __init__(
        self,
        opened: OpenedRows,
        loader: BatchLoader,
        classes_K: NDArray[np.int64],
        ui: Ui,
        keep_reference: bool,
    ) -> None:
        self._opened, self._loader, self._ui = opened, loader, ui
        self._classes_K = classes_K
        self._inputs = {
            one.row.backend: _Input(one, loader) for one in opened.running if one.counted
        }
        self._reference, *candidates = self._inputs
        self._meter = AccuracyMeter(self._reference, candidates, len(classes_K))
        self._keep_reference = keep_reference
        self._kept: dict[str, NDArray[np.float32]] = {}
        self._done = 0

    def count(self, batches: Iterable[Batch]) -> bool:
        """Count every batch; False as soon as the reference fails."""
        with self._ui.progress(f"Validating {len(self._loader.samples)} images") as progress:
            for batch in batches:
                logits = self._infer(batch)
                if self._reference not in self._inputs:
                    return False
                if self._keep_reference:
                    self._kept.update(zip(_hashes(batch), logits[self._reference], strict=True))
                self._meter.update(
                    {name: _select(logits[name], self._classes_K) for name in self._inputs},
                    np.searchsorted(self._classes_K, batch.labels_N),
                    [sample.path.as_posix() for sample in batch.samples],
                )
                self._done += len(batch.samples)
                progress(self._done, len(self._loader.samples))
        return True

    def finish(self, memory: MemoryMeter, images_NCHW: ImagesNCHW) -> MeasuredImages:
        """The rows with their accuracy, and what is kept of single images."""
        measured = {
            name: _filled(one, self._meter, memory, self._done)
            for name, one in self._inputs.items()
        }
        rows = tuple(measured.get(row.backend, row) for row in self._opened.rows)
        return MeasuredImages(rows, self._meter.answers(), RecordedLogits(self._kept), images_NCHW)

    def _infer(self, batch: Batch) -> dict[str, LogitsNK]:
        """The logits of every row that still runs, by name."""
        logits: dict[str, LogitsNK] = {}
        for name, one in list(self._inputs.items()):
            if name not in self._inputs:  # ended with another row
                continue
            try:
                logits[name] = one.infer(batch)
            except Exception as error:
                if one.is_recorded:
                    raise
                for ended in self._opened.end(name, error):
                    if self._inputs.pop(ended, None):
                        self._meter.discard(ended)
        return logits


class _Input:
    """Gives a backend the images of a batch in the form that it takes."""

    def __init__(self, opened: OpenedRow, loader: BatchLoader) -> None:
        self.row, self.name = opened.row, opened.row.backend
        self._recorded = opened.recorded
        self.is_recorded = opened.recorded is not None
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


def _run_once(opened: OpenedRows, images_NCHW: ImagesNCHW, memory: MemoryMeter) -> float:
    """Run every backend once, for the costs of a first run; the seconds of all together."""
    start = time.perf_counter()
    for one in (one for one in opened.running if one.counted):
        name, backend = one.row.backend, one.backend
        if opened.is_running(name) and backend and not isinstance(backend, PixelsBackend):
            try:
                with memory.watch(name, one.row.variant.device):
                    backend.infer(images_NCHW)
            except Exception as error:
                opened.end(name, error)
    return time.perf_counter() - start


def _select(logits_NK: LogitsNK, classes_K: NDArray[np.int64]) -> LogitsNK:
    """The logits of some classes, NaN where the logit of any class of the image is not finite."""
    finite_N1 = np.isfinite(logits_NK).all(axis=1, keepdims=True)
    return np.where(finite_N1, logits_NK[:, classes_K], np.float32(np.nan))


def _hashes(batch: Batch) -> list[str]:
    return hash_contents([sample.path for sample in batch.samples], cpu_count())


def _with_thumbnails(fidelity: Fidelity) -> Fidelity:
    flips = (replace(flip, thumbnail=_thumbnail(flip.path)) for flip in fidelity.flips)
    return replace(fidelity, flips=tuple(flips))


@lru_cache(maxsize=256)  # backends often stumble over the same images
def _thumbnail(path: str) -> str:
    return make_thumbnail(Path(path))
