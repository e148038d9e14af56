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
# Of a curve, for plots.
MOST_POINTS = 320


def count_classes(
    labels_N: LabelsN,
    answers_N: NDArray[np.int64],
    reference_N: NDArray[np.int64],
    num_classes: int,
) -> ClassCounts:
    """Count this backend's and the reference's answers (N,) by class; `NO_CLASS` is none."""
    right_N, reference_right_N = answers_N == labels_N, reference_N == labels_N

    def count(classes: NDArray[np.int64]) -> tuple[int, ...]:
        return tuple(np.bincount(classes, minlength=num_classes).tolist())

    return ClassCounts(
        images=count(labels_N),
        correct=count(labels_N[right_N]),
        answered=count(answers_N[answers_N != NO_CLASS]),
        lost=count(labels_N[reference_right_N & ~right_N]),
        gained=count(labels_N[right_N & ~reference_right_N]),
    )


def count_confusions(
    labels_N: LabelsN, answers_N: NDArray[np.int64], num_classes: int
) -> tuple[Confusion, ...]:
    """The `KEPT_CONFUSIONS` most frequent ones, most images first."""
    wrong_N = (answers_N != labels_N) & (answers_N != NO_CLASS)
    cells, images = np.unique(
        labels_N[wrong_N] * num_classes + answers_N[wrong_N], return_counts=True
    )
    most = np.argsort(-images, kind="stable")[:KEPT_CONFUSIONS]
    return tuple(
        Confusion(int(cell) // num_classes, int(cell) % num_classes, int(count))
        for cell, count in zip(cells[most], images[most], strict=True)
    )


class CurveTally:
    """The log-odds of every class for every image, for exact areas: 8 bytes for each of both, of
    at least 2 and at most `MOST_CURVES` classes.
    """

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._scores: list[NDArray[np.float64]] = []
        self._labels: list[LabelsN] = []

    def add(self, logits_NK: NDArray[np.float64], labels_N: LabelsN) -> None:
        """Count one batch. Logits that are not finite get the lowest score."""
        self._scores.append(_log_odds(logits_NK))
        self._labels.append(labels_N)

    def curves(self) -> tuple[Curve, ...]:
        """All classes pooled, then each class that has images and is not the only one."""
        scores_NK, labels_N = np.concatenate(self._scores), np.concatenate(self._labels)
        is_own_NK = labels_N[:, None] == np.arange(self._num_classes)
        pooled = _curve(None, scores_NK.ravel(), is_own_NK.ravel())
        each = [_curve(k, scores_NK[:, k], is_own_NK[:, k]) for k in range(self._num_classes)]
        return tuple(curve for curve in (pooled, *each) if curve is not None)


def _log_odds(logits_NK: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(p / (1 - p)) of each class's softmax probability p: the logit minus log(sum(exp)) of the
    others, which rounds no probability near 0 or 1. -inf in rows that are not all finite.
    """
    finite_N = np.isfinite(logits_NK).all(axis=1)
    scores_NK = np.full_like(logits_NK, -np.inf)
    for k in range(logits_NK.shape[1]):
        # Sorted: the same logits in another order give the same sum to the last bit.
        others_NJ = np.sort(np.delete(logits_NK[finite_N], k, axis=1), axis=1)
        highest_N = others_NJ[:, -1]
        weight_N = np.exp(others_NJ - highest_N[:, None]).sum(axis=1)
        scores_NK[finite_N, k] = logits_NK[finite_N, k] - highest_N - np.log(weight_N)
    return scores_NK


def _curve(
    label: int | None, scores_M: NDArray[np.float64], is_own_M: NDArray[np.bool_]
) -> Curve | None:
    """The curve of scores (M,) of images of the class and of others; None without one of the two.

    Areas are of all thresholds, equal scores being one; `MOST_POINTS` of the points are kept.
    """
    if is_own_M.all() or not is_own_M.any():
        return None
    order = np.argsort(-scores_M, kind="stable")
    scores, is_own = scores_M[order], is_own_M[order]
    last_of_ties = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    hits = np.cumsum(is_own)[last_of_ties]
    alarms = last_of_ties + 1 - hits
    recall, false_positive_rate = hits / hits[-1], alarms / alarms[-1]
    precision = hits / (hits + alarms)
    steps = np.diff(recall, prepend=0.0)
    width = np.diff(false_positive_rate, prepend=0.0)
    way = recall + false_positive_rate
    wanted: NDArray[np.float64] = np.linspace(way[0], way[-1], MOST_POINTS, dtype=np.float64)
    kept: NDArray[np.int64] = np.unique(np.searchsorted(way, wanted))
    return Curve(
        label=label,
        roc_auc=float((width * (recall - steps / 2)).sum()),
        average_precision=float((steps * precision).sum()),
        false_positive_rate=tuple(false_positive_rate[kept].tolist()),
        recall=tuple(recall[kept].tolist()),
        precision=tuple(precision[kept].tolist()),
    )
