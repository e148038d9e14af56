"""The same images through every backend: decoded once, answered part by part."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.environment import cpu_count
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.core.ui import Ui
from hvt_deploy.data.decoding import make_thumbnail
from hvt_deploy.data.images import Batch, BatchLoader
from hvt_deploy.data.sampling import hash_contents
from hvt_deploy.evaluation.accuracy import measure_accuracy, measure_fidelity
from hvt_deploy.evaluation.answer_parts import AnswerParts, Part
from hvt_deploy.evaluation.image_answers import ImageAnswers, answer_images, join_answers
from hvt_deploy.evaluation.memory import MemoryMeter
from hvt_deploy.evaluation.opened_rows import OpenedRow, OpenedRows
from hvt_deploy.evaluation.pixel_difference import infer_files, measure_pixels
from hvt_deploy.evaluation.record import Row
from hvt_deploy.evaluation.scores import Fidelity
from hvt_deploy.runtime.base import PixelsBackend


@dataclass(frozen=True, eq=False)
class MeasuredImages:
    """The rows with their accuracy, and the answers to single images."""

    rows: tuple[Row, ...]
    """The reference first."""
    answers: ImageAnswers
    """The answer to each image, by backend."""
    images_NCHW: ImagesNCHW  # noqa: N815
    """The first batch, to time inference with."""


def measure_images(
    opened: OpenedRows,
    loader: BatchLoader,
    parts: AnswerParts,
    classes_K: NDArray[np.int64],
    memory: MemoryMeter,
    ui: Ui,
    announce: Callable[[float, int], None],
    *,
    keep_reference: bool,
) -> MeasuredImages:
    """Every image once through every backend; a backend that fails is ended, the others go on.

    What `parts` has of an earlier run is not evaluated again. `classes_K` are the classes whose
    logits are compared, ascending. `announce` is given the seconds that one image takes in all
    backends, and how many images there are to do. Where the reference itself fails, the next row
    takes its place and every image is answered anew. Raises BadInput if no image can be read, and
    where no row is left as `OpenedRows.settle_reference` does.
    """
    first = next(iter(loader), None)
    if first is None:
        raise BadInput("None of the images can be read.", "Give a folder with readable images.")
    image_s = _run_once(opened, first.images_NCHW, memory) / len(first.samples)
    opened.settle_reference()
    pass_ = _Pass(opened, loader, parts, classes_K, ui, keep_reference)
    announce(image_s, len(loader.samples) - pass_.done_before)
    while (answers := pass_.answer()) is None:
        opened.settle_reference()
        pass_ = _Pass(opened, loader, parts, classes_K, ui, keep_reference)
    measured = {
        one.row.backend: _filled(one.row, answers, parts.images, memory)
        for one in opened.running
        if one.counted
    }
    rows = tuple(measured.get(row.backend, row) for row in opened.rows)
    return MeasuredImages(rows, answers, first.images_NCHW)


class _Pass:
    """One run over all images, with the reference that ran when it began."""

    def __init__(
        self,
        opened: OpenedRows,
        loader: BatchLoader,
        parts: AnswerParts,
        classes_K: NDArray[np.int64],
        ui: Ui,
        keep_reference: bool,
    ) -> None:
        self._opened, self._loader, self._parts, self._ui = opened, loader, parts, ui
        self._classes_K = classes_K
        self._inputs = {one.row.backend: one for one in opened.running if one.counted}
        self._reference = next(iter(self._inputs))
        self._keep_reference = keep_reference
        self._found = parts.find(list(self._inputs))
        self.done_before = sum(part.stop - part.start for part in self._found)
        if self.done_before:
            ui.say(
                f"Going on with an interrupted validation: {self.done_before} of "
                f"{len(loader.samples)} images were answered before."
            )

    def answer(self) -> ImageAnswers | None:
        """The answers to all images; None as soon as the reference fails."""
        self._loader.unreadable = []
        answered: list[ImageAnswers] = []
        with self._ui.progress(f"Validating {len(self._loader.samples)} images") as progress:
            for part in self._parts.parts:
                answers = self._found.get(part)
                if answers is None:
                    answers = self._answer_part(part, progress)
                    if answers is None:
                        return None
                    self._parts.keep(part, answers)
                else:
                    for index, reason in answers.unreadable.items():
                        self._loader.leave_out(self._loader.samples[index].path, reason)
                answered.append(answers)
                progress(part.stop, len(self._loader.samples))
        return join_answers(answered)

    def _answer_part(self, part: Part, progress: Callable[[int, int], None]) -> ImageAnswers | None:
        known = len(self._loader.unreadable)
        none = np.empty((0, len(self._classes_K)), np.float32)
        no_image = np.empty(0, np.int64)
        answered = [answer_images(dict.fromkeys(self._inputs, none), no_image, no_image, ())]
        for batch in self._loader.load_part(part.start, part.stop):
            answers = self._answer_batch(batch)
            if answers is None:
                return None
            answered.append(answers)
            progress(int(batch.indices_N[-1]) + 1, len(self._loader.samples))
        places = {self._loader.samples[i].path: i for i in range(part.start, part.stop)}
        unreadable = {places[one.path]: one.reason for one in self._loader.unreadable[known:]}
        return replace(join_answers(answered), unreadable=unreadable)

    def _answer_batch(self, batch: Batch) -> ImageAnswers | None:
        logits, pixels = self._infer(batch)
        if self._reference not in self._inputs:
            return None
        answers = answer_images(
            {name: _select(logits[name], self._classes_K) for name in self._inputs},
            np.searchsorted(self._classes_K, batch.labels_N),
            batch.indices_N,
            [self._parts.name_of(sample) for sample in batch.samples],
            {name: pixels[name] for name in self._inputs if name in pixels},
        )
        kept = logits[self._reference] if self._keep_reference else None
        return replace(answers, reference_logits=kept)

    def _infer(
        self, batch: Batch
    ) -> tuple[Mapping[str, LogitsNK], Mapping[str, NDArray[np.float64]]]:
        """Logits of every row that still runs, and differences of pixels where there are any."""
        logits: dict[str, LogitsNK] = {}
        pixels: dict[str, NDArray[np.float64]] = {}
        for name, one in list(self._inputs.items()):
            if name not in self._inputs:  # ended with another row
                continue
            try:
                logits[name], differences = _infer_row(one, batch, self._loader.preprocessing)
                if differences is not None:
                    pixels[name] = differences
            except Exception as error:
                if one.recorded is not None:
                    raise
                for ended in self._opened.end(name, error):
                    self._inputs.pop(ended, None)
        return logits, pixels


def _infer_row(
    one: OpenedRow, batch: Batch, preprocessing: Preprocessing
) -> tuple[LogitsNK, NDArray[np.float64] | None]:
    """Logits (N, K) in float32 of the images of a batch, in the form that the backend takes."""
    paths, images = [sample.path for sample in batch.samples], len(batch.samples)
    if one.recorded is not None:
        return one.recorded.of(hash_contents(paths, cpu_count()), paths), None
    if isinstance(one.backend, PixelsBackend):
        return infer_files(one.backend, preprocessing, paths, batch.images_NCHW[:images])
    if one.backend is None:
        raise ValueError(f"{one.row.backend} was not opened.")
    return one.backend.infer(batch.images_NCHW)[:images], None


def _filled(row: Row, answers: ImageAnswers, images: Path, memory: MemoryMeter) -> Row:
    name, fidelity = row.backend, measure_fidelity(answers, row.backend)
    has_pixels = row.variant.form == "uint8"
    return replace(
        row,
        images=len(answers.labels),
        accuracy=measure_accuracy(answers, name),
        fidelity=fidelity and _with_thumbnails(fidelity, images),
        memory_mib=memory.mib.get(name),
        pixel_difference=measure_pixels(answers, name) if has_pixels else None,
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


def _with_thumbnails(fidelity: Fidelity, images: Path) -> Fidelity:
    paths = [(images / flip.path).as_posix() for flip in fidelity.flips]
    flips = (
        replace(flip, path=path, thumbnail=_thumbnail(path))
        for flip, path in zip(fidelity.flips, paths, strict=True)
    )
    return replace(fidelity, flips=tuple(flips))


@lru_cache(maxsize=256)  # backends often stumble over the same images
def _thumbnail(path: str) -> str:
    return make_thumbnail(Path(path))
