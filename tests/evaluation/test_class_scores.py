"""Counts by class, confusions, curves and flipped images, against the plain definitions on all
images at once.
"""

from __future__ import annotations

import numpy as np
import pytest
from builders import answered, measured
from scipy.special import logsumexp
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

from hvt_deploy.evaluation.accuracy import measure_accuracy
from hvt_deploy.evaluation.class_scores import MOST_POINTS
from hvt_deploy.evaluation.flipped_predictions import KEPT_FLIPS
from hvt_deploy.evaluation.scores import Answer, Confusion

K = 7


def noisy(labels: np.ndarray, seed: int, spread: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (2.0 * np.eye(K)[labels] + spread * rng.standard_normal((len(labels), K))).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = np.random.default_rng(0).integers(0, K, 2000)
    return labels, noisy(labels, 1), noisy(labels, 2, 1.3)


def test_precision_and_recall_follow_from_the_counts(many) -> None:
    labels, reference, candidate = many
    classes = measured(reference, candidate, labels)["ort"].accuracy.classes
    precision, recall, _, images = precision_recall_fscore_support(labels, candidate.argmax(axis=1))
    assert classes.images == tuple(images)
    assert np.divide(classes.correct, classes.images) == pytest.approx(recall)
    assert np.divide(classes.correct, classes.answered) == pytest.approx(precision)


def test_the_drop_of_a_class_is_lost_minus_gained(many) -> None:
    labels, reference, candidate = many
    result = measured(reference, candidate, labels)
    before, after = result["pytorch"].accuracy.classes, result["ort"].accuracy.classes
    assert np.subtract(after.lost, after.gained) == pytest.approx(
        np.subtract(before.correct, after.correct)
    )
    assert min(after.lost) > 0
    assert set(before.lost) == set(before.gained) == {0}


def test_confusions_are_the_cells_beside_the_diagonal(many) -> None:
    labels, reference, candidate = many
    confusions = measured(reference, candidate, labels)["ort"].accuracy.confusions
    matrix = np.zeros((K, K), np.int64)
    np.add.at(matrix, (labels, candidate.argmax(axis=1)), 1)
    found = np.diag(np.diag(matrix))
    for one in confusions:
        found[one.label, one.answer] = one.images
    assert np.array_equal(found, matrix)
    assert [c.images for c in confusions] == sorted((c.images for c in confusions), reverse=True)


@pytest.mark.parametrize("sure", [1, 20])
def test_areas_are_those_of_the_scores(many, sure: float) -> None:
    """To the last digit, also of a model so sure that its probabilities are 1 in float64."""
    labels, reference, candidate = many
    candidate = sure * candidate
    curves = {
        curve.label: curve
        for curve in measured(reference, candidate, labels)["ort"].accuracy.curves
    }
    logits = candidate.astype(np.float64)
    odds = np.stack(
        [
            logits[:, k] - logsumexp(np.delete(logits, k, axis=1), axis=1)
            for k in range(logits.shape[1])
        ],
        axis=1,
    )
    for label in range(K):
        curve, is_own = curves[label], labels == label
        assert curve.roc_auc == pytest.approx(roc_auc_score(is_own, odds[:, label]), abs=1e-12)
        assert curve.average_precision == pytest.approx(
            average_precision_score(is_own, odds[:, label]), abs=1e-12
        )
        assert len(curve.recall) <= MOST_POINTS
        assert (curve.recall[-1], curve.false_positive_rate[-1]) == (1, 1)
        assert list(curve.recall) == sorted(curve.recall)
    own = np.eye(K, dtype=bool)[labels]
    assert curves[None].roc_auc == pytest.approx(
        roc_auc_score(own.ravel(), odds.ravel()), abs=1e-12
    )


def test_scores_that_say_nothing_have_half_the_area() -> None:
    same = np.zeros((30, K), np.float32)
    for curve in measured(same, same, np.arange(30) % K)["ort"].accuracy.curves:
        assert curve.roc_auc == pytest.approx(0.5)


def test_a_class_without_images_has_no_curve_and_21_classes_have_none() -> None:
    labels = np.array([0, 1, 1])
    assert [
        c.label for c in measured(noisy(labels, 0), noisy(labels, 0), labels)["ort"].accuracy.curves
    ] == [None, 0, 1]
    wide = np.zeros((3, 21), np.float32)
    assert measured(wide, wide, labels)["ort"].accuracy.curves == ()


def test_flips_name_the_image_and_both_answers_lost_ones_first() -> None:
    labels = np.array([0, 1, 2, 3])
    reference = np.eye(K, dtype=np.float32)[[0, 1, 5, 3]]
    candidate = np.eye(K, dtype=np.float32)[[0, 4, 2, 3]]
    candidate[3, 6] = np.nan
    compared = measured(reference, candidate, labels, batch=3)["ort"]
    assert [
        (int(f.path), f.label, f.reference.label, f.candidate.label)
        for f in compared.fidelity.flips
    ] == [
        (1, 1, 1, 4),
        (3, 3, 3, None),
        (2, 2, 5, 2),
    ]
    share = np.e / (np.e + K - 1)
    assert compared.fidelity.flips[0].reference.probability == pytest.approx(share)
    assert compared.fidelity.flips[1].candidate == Answer(None, None)


def test_only_the_surest_of_many_flips_are_kept() -> None:
    images = 300
    labels = np.zeros(images, np.int64)
    reference, candidate = np.zeros((images, K), np.float32), np.zeros((images, K), np.float32)
    reference[:, 0], candidate[:, 1] = 1, np.arange(images) / 100 + 0.01
    compared = measured(reference, candidate, labels)["ort"]
    assert [int(f.path) for f in compared.fidelity.flips] == [
        images - 1 - i for i in range(KEPT_FLIPS)
    ]


def test_logit_error_is_that_of_all_logits(many) -> None:
    labels, reference, candidate = many
    compared = measured(reference, candidate, labels)["ort"]
    a, b = reference.astype(np.float64).ravel(), candidate.astype(np.float64).ravel()
    assert compared.fidelity.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert compared.fidelity.max_abs == pytest.approx(np.abs(a - b).max())


def test_confusion_of_many_classes_needs_no_matrix() -> None:
    logits = np.zeros((2, 21_841), np.float32)
    logits[:, 20_000] = 1
    found = answered({"pytorch": logits}, np.array([20_000, 3]))
    assert measure_accuracy(found, "pytorch").confusions == (Confusion(3, 20_000, 1),)
