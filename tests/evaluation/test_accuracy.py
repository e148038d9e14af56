from __future__ import annotations

import numpy as np
import pytest
from builders import answered, measured

from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.core.tensors import LARGEST_SQNR_DB
from hvt_deploy.evaluation.accuracy import measure_accuracy, measure_fidelity
from hvt_deploy.evaluation.image_answers import join_answers, read_answers, record_bytes
from hvt_deploy.evaluation.parity import compare_logits

K = 10


def answers(classes: np.ndarray, seed: int, num_classes: int = K) -> np.ndarray:
    """Logits whose largest is that of the class given."""
    logits = (
        np.random.default_rng(seed).uniform(-1, 1, (len(classes), num_classes)).astype(np.float32)
    )
    logits[np.arange(len(classes)), classes] = 3
    return logits


def imperfect_reference(images: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and the answers of a model that is right for four images in five."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, K, images)
    return labels, np.where(rng.random(images) < 0.8, labels, (labels + 1) % K)


def test_one_percent_of_flipped_labels_is_caught_at_5000_images() -> None:
    labels, predicted = imperfect_reference(5000)
    flipped = predicted.copy()
    flipped[::100] = (flipped[::100] + 3) % K
    result = measured(answers(predicted, 2), answers(flipped, 2), labels)["ort"]
    assert result.accuracy.drop.points.low > 0
    assert result.accuracy.drop.mcnemar_p < 1e-6
    assert result.fidelity.agreement.estimate == pytest.approx(99.0)
    assert (
        result.accuracy.drop.reference_only - result.accuracy.drop.candidate_only
        == pytest.approx(5000 * result.accuracy.drop.points.estimate / 100)
    )


def test_an_identical_backend_is_not_called_different() -> None:
    labels, predicted = imperfect_reference(5000)
    logits = answers(predicted, 2)
    result = measured(logits, logits.copy(), labels)
    paired = result["ort"]
    assert paired.accuracy.top1 == result["pytorch"].accuracy.top1
    assert (paired.accuracy.drop.points.low, paired.accuracy.drop.points.high) == pytest.approx(
        (-0.077, 0.077), abs=0.001
    )
    assert paired.accuracy.drop.mcnemar_p == 1.0
    assert paired.fidelity.agreement.estimate == 100
    assert paired.fidelity.sqnr_db == LARGEST_SQNR_DB
    assert result["pytorch"].fidelity is None
    assert result["pytorch"].accuracy.drop is None


def test_backend_that_is_wrong_on_as_many_other_images_has_no_drop_but_disagrees() -> None:
    labels = np.zeros(1000, np.int64)
    reference, candidate = np.zeros(1000, np.int64), np.zeros(1000, np.int64)
    reference[:50], candidate[50:100] = 1, 1
    result = measured(answers(reference, 0), answers(candidate, 0), labels)["ort"]
    assert result.accuracy.drop.points.estimate == 0
    assert result.accuracy.drop.points.low < 0 < result.accuracy.drop.points.high
    assert result.fidelity.agreement.estimate == pytest.approx(90.0)


def test_counts_equal_those_of_all_images_at_once() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, K, 301)
    reference = rng.standard_normal((301, K)).astype(np.float32)
    candidate = reference + 0.3 * rng.standard_normal((301, K)).astype(np.float32)
    batched, whole = (measured(reference, candidate, labels, batch) for batch in (7, 301))
    right = candidate.argmax(axis=1) == labels
    five_best = np.argsort(-candidate, axis=1)[:, :5]
    for result in (batched["ort"], whole["ort"]):
        assert result.accuracy.images == 301
        assert result.accuracy.top1.estimate == pytest.approx(100 * right.mean())
        assert result.accuracy.top5.estimate == pytest.approx(
            100 * (five_best == labels[:, None]).any(axis=1).mean()
        )
        assert result.accuracy.classes.images == tuple(np.bincount(labels, minlength=K))
        assert result.accuracy.classes.correct == tuple(np.bincount(labels[right], minlength=K))
        assert result.fidelity.sqnr_db == pytest.approx(
            compare_logits(reference, candidate).sqnr_db
        )


def test_equal_logits_are_ranked_as_argmax_does() -> None:
    same = np.zeros((K, K), np.float32)
    result = measured(same, same, np.arange(K))["ort"]
    assert result.accuracy.top1.estimate == pytest.approx(100 / K)
    assert result.accuracy.top5.estimate == pytest.approx(500 / K)


@pytest.mark.parametrize(("num_classes", "has_top5"), [(2, False), (5, False), (6, True)])
def test_top5_of_five_classes_says_nothing(num_classes: int, has_top5: bool) -> None:
    labels = np.zeros(4, np.int64)
    logits = answers(labels, 0, num_classes)
    assert (measured(logits, logits, labels)["ort"].accuracy.top5 is not None) == has_top5


def test_logits_that_are_not_finite_are_wrong_answers() -> None:
    labels = np.zeros(6, np.int64)
    reference = answers(labels, 0)
    broken = reference.copy()
    broken[1, 3], broken[2, 0] = np.nan, np.inf
    result = measured(reference, broken, labels)["ort"]
    assert result.accuracy.not_finite == 2
    assert result.accuracy.classes.correct[0] == 4
    assert result.accuracy.top5.estimate == pytest.approx(400 / 6)
    assert result.fidelity.agreement.estimate == pytest.approx(400 / 6)
    assert result.fidelity.sqnr_db == -LARGEST_SQNR_DB


def test_nothing_is_near_a_reference_that_is_not_finite() -> None:
    labels = np.zeros(6, np.int64)
    candidate = answers(labels, 0)
    reference = candidate.copy()
    reference[1, 3] = np.nan
    fidelity = measured(reference, candidate, labels)["ort"].fidelity
    assert (fidelity.max_abs, fidelity.cosine) == (None, None)
    assert fidelity.sqnr_db == -LARGEST_SQNR_DB


def test_chance_is_what_the_most_frequent_class_gives() -> None:
    labels = np.array([4, 4, 4, 1])
    logits = answers(labels, 0)
    assert measured(logits, logits, labels)["pytorch"].accuracy.chance == 75


@pytest.mark.parametrize("label", [-1, K])
def test_a_label_that_the_model_does_not_have_is_bad_input(label: int) -> None:
    logits = answers(np.array([0, 1]), 0)
    with pytest.raises(BadInput, match=f"Label {label} .* 10 classes"):
        measured(logits, logits, np.array([0, label]))


def test_logits_of_another_shape_name_the_backend() -> None:
    labels = np.array([0, 1])
    with pytest.raises(ToolFailure, match=r"ort gave logits of shape \(2, 9\), expected \(2, 10\)"):
        measured(answers(labels, 0), answers(labels, 0)[:, :9], labels)


def test_no_image_is_bad_input() -> None:
    none = answered({"pytorch": np.zeros((0, K), np.float32)}, np.zeros(0, np.int64))
    with pytest.raises(BadInput, match="No image"):
        measure_accuracy(none, "pytorch")


def test_the_numbers_do_not_depend_on_parts_their_order_or_the_disk(tmp_path) -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, K, 301)
    logits = {
        "pytorch": (1e3 * rng.standard_normal((301, K))).astype(np.float32),
        "ort": rng.standard_normal((301, K)).astype(np.float32),
    }
    parts = []
    for place, start in enumerate(range(0, 301, 40)):
        part = {name: one[start : start + 40] for name, one in logits.items()}
        written = tmp_path / f"{place}.npz"
        answered(part, labels[start : start + 40], start).write(written)
        parts.append(read_answers(written))
    whole, joined = (
        answered(logits, labels),
        join_answers([parts[i] for i in (5, 2, 7, 0, 1, 6, 3, 4)]),
    )
    assert joined.files == whole.files
    for name in logits:
        assert measure_accuracy(joined, name) == measure_accuracy(whole, name)
        assert measure_fidelity(joined, name) == measure_fidelity(whole, name)
    with pytest.raises(BadInput, match="same image"):
        join_answers([parts[0], *parts])


def test_what_is_kept_of_1000_classes_is_a_sixtieth_of_their_logits() -> None:
    assert record_bytes(1000) <= 4 * 1000 / 60
    assert record_bytes(20) == record_bytes(1000) + 4 * 20
