"""Counts the answers of several backends on identical images, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.core.tensors import LabelsN, LogitsNK, signal_and_noise, sqnr_db
from hvt_deploy.evaluation.class_scores import MOST_CURVES, NO_CLASS, ClassTally, CurveTally
from hvt_deploy.evaluation.flipped_predictions import FlipTally
from hvt_deploy.evaluation.image_answers import ImageAnswers
from hvt_deploy.evaluation.scores import Accuracy, Fidelity, Top1Drop
from hvt_deploy.evaluation.statistics import mcnemar_exact, tango_interval, wilson_interval

_TOP = 5


class _AccuracyTally:
    """The running counts of one backend."""

    def __init__(self, num_classes: int) -> None:
        self.classes = ClassTally(num_classes)
        self.curves = CurveTally(num_classes) if 1 < num_classes <= MOST_CURVES else None
        self.flips = FlipTally()
        self.answers: list[NDArray[np.int64]] = []
        self.top1 = 0
        self.top5 = 0
        self.not_finite = 0
        self.agree = 0
        self.reference_only = 0
        self.candidate_only = 0
        self.signal = 0.0
        self.noise = 0.0
        self.energy = 0.0
        self.product = 0.0
        self.max_abs = 0.0

    def add_error(self, reference_NK: NDArray[np.float64], logits_NK: NDArray[np.float64]) -> None:
        """The sums behind the logit error; infinite from the first logit on that is not finite, of
        the reference as well.
        """
        if not (np.isfinite(reference_NK).all() and np.isfinite(logits_NK).all()):
            self.noise = self.max_abs = math.inf
            return
        signal, noise = signal_and_noise(reference_NK, logits_NK)
        self.signal += signal
        self.noise += noise
        self.energy += float(np.square(logits_NK).sum())
        self.product += float((logits_NK * reference_NK).sum())
        self.max_abs = max(self.max_abs, float(np.abs(logits_NK - reference_NK).max(initial=0)))


class AccuracyMeter:
    """Accumulates the logits of a reference and of candidates on the same labelled images."""

    def __init__(self, reference: str, candidates: Sequence[str], num_classes: int) -> None:
        self._reference = reference
        self._num_classes = num_classes
        self._tallies = {name: _AccuracyTally(num_classes) for name in (reference, *candidates)}
        self._class_images = np.zeros(num_classes, np.int64)
        self._files: list[str] = []
        self._labels: list[LabelsN] = []

    def update(
        self,
        logits: Mapping[str, LogitsNK],
        labels_N: LabelsN,
        files: Sequence[str] | None = None,
    ) -> None:
        """Count one batch: logits (N, K) of every backend by name, and the labels (N,) in 0..K-1.

        `files` names the images; without it they are numbered.

        Raises BadInput for a label that the model does not have and ToolFailure for logits of
        another shape.
        """
        self._check(logits, labels_N)
        reference_NK = logits[self._reference].astype(np.float64)
        reference_N = _top1(reference_NK)
        reference_right_N = reference_N == labels_N
        if files is None:
            files = [str(len(self._files) + n) for n in range(len(labels_N))]
        self._files += files
        self._labels.append(labels_N)
        self._class_images += np.bincount(labels_N, minlength=self._num_classes)
        for name, tally in self._tallies.items():
            logits_NK = logits[name].astype(np.float64)
            top1_N = _top1(logits_NK)
            right_N = top1_N == labels_N
            tally.classes.add(labels_N, top1_N, reference_N)
            if tally.curves is not None:
                tally.curves.add(logits_NK, labels_N)
            tally.flips.add(files, labels_N, reference_NK, logits_NK, reference_N, top1_N)
            tally.answers.append(top1_N)
            tally.top1 += int(right_N.sum())
            tally.top5 += int(((_rank(logits_NK, labels_N) < _TOP) & (top1_N != NO_CLASS)).sum())
            tally.not_finite += int((top1_N == NO_CLASS).sum())
            tally.agree += int(((top1_N == reference_N) & (top1_N != NO_CLASS)).sum())
            tally.reference_only += int((reference_right_N & ~right_N).sum())
            tally.candidate_only += int((right_N & ~reference_right_N).sum())
            tally.add_error(reference_NK, logits_NK)

    def discard(self, name: str) -> None:
        """Forget a backend that failed: its logits are not expected any more."""
        del self._tallies[name]

    def accuracy(self, name: str) -> Accuracy:
        """The answers of a backend so far. Raises BadInput where no image was counted."""
        tally, images = self._tallies[name], len(self._files)
        if images == 0:
            hint = "Give a folder with readable, labelled images."
            raise BadInput("No image was measured.", hint)
        lost, gained = tally.reference_only, tally.candidate_only
        return Accuracy(
            images=images,
            top1=wilson_interval(tally.top1, images),
            top5=wilson_interval(tally.top5, images) if self._num_classes > _TOP else None,
            drop=None
            if name == self._reference
            else Top1Drop(
                tango_interval(lost, gained, images), lost, gained, mcnemar_exact(lost, gained)
            ),
            not_finite=tally.not_finite,
            classes=tally.classes.counts(self._class_images),
            confusions=tally.classes.confusions(),
            curves=tally.curves.curves() if tally.curves is not None else (),
            chance=100 * int(self._class_images.max()) / images,
        )

    def fidelity(self, name: str) -> Fidelity | None:
        """The logits of a backend so far against the reference's; None for the reference itself."""
        if name == self._reference:
            return None
        tally, finite = self._tallies[name], math.isfinite(self._tallies[name].noise)
        return Fidelity(
            agreement=wilson_interval(tally.agree, len(self._files)),
            sqnr_db=sqnr_db(tally.signal, tally.noise),
            cosine=_cosine(tally.product, tally.signal, tally.energy) if finite else None,
            max_abs=tally.max_abs if math.isfinite(tally.max_abs) else None,
            flips=tally.flips.flips(),
        )

    def answers(self) -> ImageAnswers:
        """The class that every backend answered for every image so far."""
        answers = {name: np.concatenate(tally.answers) for name, tally in self._tallies.items()}
        return ImageAnswers(tuple(self._files), np.concatenate(self._labels), answers)

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
