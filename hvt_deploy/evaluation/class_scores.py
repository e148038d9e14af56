"""Counts by class, confusions, and ROC and precision-recall curves of one backend."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.tensors import LabelsN
from hvt_deploy.evaluation.scores import ClassCounts, Confusion, Curve

NO_CLASS = -1
# Every cell off the diagonal for 50 classes; of more classes the most frequent confusions.
KEPT_CONFUSIONS = 50 * 49
# With more classes nobody reads a curve of each.
MOST_CURVES = 20
_HIGHEST_LOG_ODDS = 20.0
_SCORE_BINS = 320


class ClassTally:
    """Counts answers by class; memory grows with the number of distinct mistakes, not of images."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._counts = {
            name: np.zeros(num_classes, np.int64)
            for name in ("correct", "answered", "lost", "gained")
        }
        self._confused: dict[int, int] = {}

    def add(
        self, labels_N: LabelsN, answers_N: NDArray[np.int64], reference_N: NDArray[np.int64]
    ) -> None:
        """Count this backend's and the reference's answers (N,); `NO_CLASS` is none."""
        right_N, reference_right_N = answers_N == labels_N, reference_N == labels_N
        for name, classes in (
            ("correct", labels_N[right_N]),
            ("answered", answers_N[answers_N != NO_CLASS]),
            ("lost", labels_N[reference_right_N & ~right_N]),
            ("gained", labels_N[right_N & ~reference_right_N]),
        ):
            self._counts[name] += np.bincount(classes, minlength=self._num_classes)
        wrong_N = ~right_N & (answers_N != NO_CLASS)
        cells, images = np.unique(
            labels_N[wrong_N] * self._num_classes + answers_N[wrong_N], return_counts=True
        )
        for cell, more in zip(cells.tolist(), images.tolist(), strict=True):
            self._confused[cell] = self._confused.get(cell, 0) + more

    def counts(self, class_images: NDArray[np.int64]) -> ClassCounts:
        """The counts, and the images of each class."""
        return ClassCounts(
            tuple(class_images.tolist()),
            **{name: tuple(n.tolist()) for name, n in self._counts.items()},
        )

    def confusions(self) -> tuple[Confusion, ...]:
        """The `KEPT_CONFUSIONS` most frequent ones, most images first."""
        most = sorted(self._confused.items(), key=lambda item: (-item[1], item[0]))[
            :KEPT_CONFUSIONS
        ]
        return tuple(Confusion(*divmod(cell, self._num_classes), images) for cell, images in most)


class CurveTally:
    """Histograms of the log-odds of every class over its own images and the others: curves in
    constant memory.
    """

    def __init__(self, num_classes: int) -> None:
        self._own_KB = np.zeros((num_classes, _SCORE_BINS), np.int64)
        self._others_KB = np.zeros((num_classes, _SCORE_BINS), np.int64)

    def add(self, logits_NK: NDArray[np.float64], labels_N: LabelsN) -> None:
        """Count one batch. Logits that are not finite get the lowest score."""
        bins_NK: NDArray[np.int64] = np.searchsorted(
            _SCORE_EDGES, _log_odds(logits_NK), side="right"
        )
        for label in range(bins_NK.shape[1]):
            bins_N, is_own_N = bins_NK[:, label], np.equal(labels_N, label)
            self._own_KB[label] += np.bincount(bins_N[is_own_N], minlength=_SCORE_BINS)
            self._others_KB[label] += np.bincount(bins_N[~is_own_N], minlength=_SCORE_BINS)

    def curves(self) -> tuple[Curve, ...]:
        """All classes pooled, then each class that has images and is not the only one."""
        pooled = _curve(None, self._own_KB.sum(axis=0), self._others_KB.sum(axis=0))
        each = [
            _curve(k, own, others)
            for k, (own, others) in enumerate(zip(self._own_KB, self._others_KB, strict=True))
        ]
        return tuple(curve for curve in (pooled, *each) if curve is not None)


_SCORE_EDGES = np.linspace(-_HIGHEST_LOG_ODDS, _HIGHEST_LOG_ODDS, _SCORE_BINS - 1)


def _log_odds(logits_NK: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(p / (1 - p)) of each class's softmax probability p, within ±36; -inf in rows that are not
    all finite.
    """
    finite_N1 = np.isfinite(logits_NK).all(axis=1, keepdims=True)
    safe_NK = np.where(finite_N1, logits_NK, 0)
    weights_NK = np.exp(safe_NK - safe_NK.max(axis=1, keepdims=True))
    smallest = 2.0**-52  # what is left of the sum below that is rounding
    others_NK = np.maximum(weights_NK.sum(axis=1, keepdims=True) - weights_NK, smallest)
    return np.where(
        finite_N1, np.log(np.maximum(weights_NK, smallest)) - np.log(others_NK), -np.inf
    )


def _curve(
    label: int | None, own_B: NDArray[np.int64], others_B: NDArray[np.int64]
) -> Curve | None:
    """The curve of two histograms; scores in one bin are ties. None where one of them is empty."""
    if own_B.sum() == 0 or others_B.sum() == 0:
        return None
    filled = np.flatnonzero(own_B + others_B)[::-1]
    hits, alarms = np.cumsum(own_B[filled]), np.cumsum(others_B[filled])
    recall, false_positive_rate = hits / hits[-1], alarms / alarms[-1]
    precision = hits / (hits + alarms)
    steps = np.diff(recall, prepend=0.0)
    width = np.diff(false_positive_rate, prepend=0.0)
    return Curve(
        label=label,
        roc_auc=float((width * (recall - steps / 2)).sum()),
        average_precision=float((steps * precision).sum()),
        false_positive_rate=tuple(false_positive_rate.tolist()),
        recall=tuple(recall.tolist()),
        precision=tuple(precision.tolist()),
    )
