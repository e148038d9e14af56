"""Counts right and wrong answers of several backends on identical images, batch by batch, in
constant memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.core.tensors import LabelsN, LogitsNK, sqnr_db
from hvt_deploy.evaluation.answers import ImageAnswers
from hvt_deploy.evaluation.classes import MOST_CURVES, NO_CLASS, ClassTally, CurveTally
from hvt_deploy.evaluation.flips import FlippedImage, FlipTally
from hvt_deploy.evaluation.record import ClassCounts, Confusion, Curve, Interval
from hvt_deploy.evaluation.statistics import mcnemar_exact, tango_interval, wilson_interval

_TOP = 5


@dataclass(frozen=True)
class AgainstReference:
    """One backend compared image by image with the reference.

    `agreement` is the share of images where both answer the same class (percent). `top1_drop` is
    the reference's top-1 minus this backend's (points), from the images that only the reference
    (`reference_only`) or only this backend (`candidate_only`) got right. `sqnr_db` is that of all
    logits.
    """

    agreement: Interval
    top1_drop: Interval
    reference_only: int
    candidate_only: int
    mcnemar_p: float
    sqnr_db: float
    cosine: float | None
    max_abs: float | None
    flips: tuple[FlippedImage, ...]


@dataclass(frozen=True)
class Accuracy:
    """What one backend answered. `top1` and `top5` in percent; `top5` is None where there are five
    classes or fewer.

    An image whose logits are not all finite is wrong and counted in `not_finite`. There are
    `curves` for up to 20 classes. `against_reference` is None for the reference itself.
    """

    images: int
    top1: Interval
    top5: Interval | None
    classes: ClassCounts
    confusions: tuple[Confusion, ...]
    curves: tuple[Curve, ...]
    not_finite: int
    against_reference: AgainstReference | None

    @property
    def chance(self) -> float:
        """Top-1 in percent of always answering the most frequent class of these images."""
        return 100 * max(self.classes.images) / self.images


class _Tally:
    """The running counts of one backend."""

    def __init__(self, num_classes: int) -> None:
        self.classes = ClassTally(num_classes)
        self.curves = CurveTally(num_classes) if num_classes <= MOST_CURVES else None
        self.flips = FlipTally()
        self.answers: list[NDArray[np.int64]] = []
        self.top1 = 0
        self.top5 = 0
        self.not_finite = 0
        self.agree = 0
        self.reference_only = 0
        self.candidate_only = 0
        self.noise = 0.0
        self.energy = 0.0
        self.product = 0.0
        self.max_abs = 0.0

    def add_error(self, reference_NK: NDArray[np.float64], logits_NK: NDArray[np.float64]) -> None:
        """The sums behind the logit error; infinite from the first logit on that is not finite."""
        finite = bool(np.isfinite(logits_NK).all())
        difference_NK = (
            np.abs(logits_NK - reference_NK) if finite else np.full_like(reference_NK, math.inf)
        )
        self.noise += float(np.square(difference_NK).sum())
        self.max_abs = max(self.max_abs, float(difference_NK.max(initial=0)))
        if finite:
            self.energy += float(np.square(logits_NK).sum())
            self.product += float((logits_NK * reference_NK).sum())


class AccuracyMeter:
    """Accumulates the logits of a reference and of candidates on the same labelled images."""

    def __init__(self, reference: str, candidates: Sequence[str], num_classes: int) -> None:
        self._reference = reference
        self._num_classes = num_classes
        self._tallies = {name: _Tally(num_classes) for name in (reference, *candidates)}
        self._class_images = np.zeros(num_classes, np.int64)
        self._signal = 0.0
        self._seen: list[tuple[NDArray[np.int64], LabelsN]] = []

    def update(
        self,
        logits: Mapping[str, LogitsNK],
        labels_N: LabelsN,
        indices_N: NDArray[np.int64] | None = None,
    ) -> None:
        """Count one batch: logits (N, K) of every backend by name, and the labels (N,) in 0..K-1.

        `indices_N` numbers the images, for `flips`; without it they are counted.

        Raises BadInput for a label that the model does not have and ToolFailure for logits of
        another shape.
        """
        self._check(logits, labels_N)
        reference_NK = logits[self._reference].astype(np.float64)
        reference_N = _top1(reference_NK)
        reference_right_N = reference_N == labels_N
        numbers_N = (
            np.arange(len(labels_N)) + self._class_images.sum() if indices_N is None else indices_N
        )
        self._seen.append((numbers_N, labels_N))
        self._class_images += np.bincount(labels_N, minlength=self._num_classes)
        self._signal += float(np.square(reference_NK).sum())
        for name, tally in self._tallies.items():
            logits_NK = logits[name].astype(np.float64)
            top1_N = _top1(logits_NK)
            right_N = top1_N == labels_N
            tally.classes.add(labels_N, top1_N, reference_N)
            if tally.curves is not None:
                tally.curves.add(logits_NK, labels_N)
            tally.flips.add(numbers_N, labels_N, reference_NK, logits_NK, reference_N, top1_N)
            tally.answers.append(top1_N)
            tally.top1 += int(right_N.sum())
            tally.top5 += int(((_rank(logits_NK, labels_N) < _TOP) & (top1_N != NO_CLASS)).sum())
            tally.not_finite += int((top1_N == NO_CLASS).sum())
            tally.agree += int(((top1_N == reference_N) & (top1_N != NO_CLASS)).sum())
            tally.reference_only += int((reference_right_N & ~right_N).sum())
            tally.candidate_only += int((right_N & ~reference_right_N).sum())
            tally.add_error(reference_NK, logits_NK)

    def summarize(self) -> dict[str, Accuracy]:
        """The numbers so far by backend. Raises BadInput where no image was counted."""
        if self._class_images.sum() == 0:
            raise BadInput(
                "No image was measured.", "Give a folder with readable, labelled images."
            )
        return {name: self._accuracy(name, tally) for name, tally in self._tallies.items()}

    def answers(self, files: Sequence[str]) -> ImageAnswers:
        """What every backend answered so far; `files` names the images by their numbers."""
        numbers_N, labels_N = (np.concatenate(column) for column in zip(*self._seen, strict=True))
        answers = {name: np.concatenate(tally.answers) for name, tally in self._tallies.items()}
        return ImageAnswers(tuple(files[int(i)] for i in numbers_N), labels_N, answers)

    def _check(self, logits: Mapping[str, LogitsNK], labels_N: LabelsN) -> None:
        expected = (len(labels_N), self._num_classes)
        for name in self._tallies:
            if logits[name].shape != expected:
                raise ToolFailure(
                    f"{name} gave logits of shape {logits[name].shape}, expected {expected}."
                )
        if len(labels_N) and not 0 <= labels_N.min() <= labels_N.max() < self._num_classes:
            wrong = labels_N.max() if labels_N.min() >= 0 else labels_N.min()
            raise BadInput(
                f"Label {wrong} is not among the {self._num_classes} classes of the model."
            )

    def _accuracy(self, name: str, tally: _Tally) -> Accuracy:
        images = int(self._class_images.sum())
        compared = AgainstReference(
            agreement=wilson_interval(tally.agree, images),
            top1_drop=tango_interval(tally.reference_only, tally.candidate_only, images),
            reference_only=tally.reference_only,
            candidate_only=tally.candidate_only,
            mcnemar_p=mcnemar_exact(tally.reference_only, tally.candidate_only),
            sqnr_db=sqnr_db(self._signal, tally.noise),
            cosine=_cosine(tally.product, self._signal, tally.energy)
            if math.isfinite(tally.noise)
            else None,
            max_abs=tally.max_abs if math.isfinite(tally.max_abs) else None,
            flips=tally.flips.flips(),
        )
        return Accuracy(
            images=images,
            top1=wilson_interval(tally.top1, images),
            top5=wilson_interval(tally.top5, images) if self._num_classes > _TOP else None,
            classes=tally.classes.counts(self._class_images),
            confusions=tally.classes.confusions(),
            curves=tally.curves.curves() if tally.curves is not None else (),
            not_finite=tally.not_finite,
            against_reference=None if name == self._reference else compared,
        )


def _top1(logits_NK: NDArray[np.float64]) -> NDArray[np.int64]:
    """The class answered for each image, `NO_CLASS` where a logit is not finite."""
    return np.where(np.isfinite(logits_NK).all(axis=1), logits_NK.argmax(axis=1), NO_CLASS)


def _rank(logits_NK: NDArray[np.float64], labels_N: LabelsN) -> NDArray[np.int64]:
    """How many classes come before the label; among equal logits the lower class first, as argmax
    has it.
    """
    own_N1 = np.take_along_axis(logits_NK, labels_N[:, None], axis=1)
    is_lower_class_NK = np.arange(logits_NK.shape[1], dtype=np.int64) < labels_N[:, None]
    comes_before_NK = (logits_NK > own_N1) | ((logits_NK == own_N1) & is_lower_class_NK)
    return np.count_nonzero(comes_before_NK, axis=1)


def _cosine(product: float, signal: float, energy: float) -> float | None:
    """Of the angle between all logits of both; None where one of them is all zeros."""
    length = math.sqrt(signal * energy)
    return max(-1.0, min(1.0, product / length)) if length > 0 else None
