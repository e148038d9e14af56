from __future__ import annotations

import math

import numpy as np
import pytest

from hvt_deploy.core.errors import ToolFailure
from hvt_deploy.core.tensors import LARGEST_SQNR_DB, Signature
from hvt_deploy.evaluation.parity import compare_logits, draw_seeded_noise

REFERENCE = np.array([[1.0, -8.0, 3.0], [0.5, 2.0, 1.0]], np.float32)


def test_differences_are_relative_to_the_largest_logit() -> None:
    candidate = REFERENCE.copy()
    candidate[1, 2] += 0.25
    parity = compare_logits(REFERENCE, candidate)
    assert parity.max_abs == 0.25
    assert parity.relative_to_largest == 0.25 / 8
    assert parity.sqnr_db == pytest.approx(10 * math.log10(float((REFERENCE**2).sum()) / 0.25**2))
    assert parity.same_argmax


def test_equal_logits_have_the_largest_sqnr() -> None:
    parity = compare_logits(REFERENCE, REFERENCE.copy())
    assert (parity.max_abs, parity.relative_to_largest, parity.sqnr_db) == (0, 0, LARGEST_SQNR_DB)


@pytest.mark.parametrize("noise_db", [20, 40, 60])
def test_sqnr_measures_the_noise_that_was_added(noise_db: int) -> None:
    rng = np.random.default_rng(noise_db)
    reference = rng.standard_normal((50, 1000)).astype(np.float32)
    candidate = reference + (10 ** (-noise_db / 20) * rng.standard_normal((50, 1000))).astype(
        np.float32
    )
    assert compare_logits(reference, candidate).sqnr_db == pytest.approx(noise_db, abs=0.3)


def test_another_answer_in_one_row_is_seen() -> None:
    candidate = REFERENCE.copy()
    candidate[1] = [2.5, 2.0, 1.0]
    assert not compare_logits(REFERENCE, candidate).same_argmax


def test_a_batch_that_repeats_its_first_row_is_seen() -> None:
    repeated = np.repeat(REFERENCE[:1], 2, axis=0)
    assert compare_logits(REFERENCE, repeated).relative_to_largest > 1


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_infinitely_far(broken: float) -> None:
    other = REFERENCE.copy()
    other[0, 0] = broken
    for reference, candidate in ((REFERENCE, other), (other, REFERENCE)):
        parity = compare_logits(reference, candidate)
        assert parity.max_abs == parity.relative_to_largest == math.inf
        assert parity.sqnr_db == -LARGEST_SQNR_DB
        assert not parity.same_argmax


def test_other_shapes_cannot_be_compared() -> None:
    with pytest.raises(ToolFailure, match=r"\(2, 3\).*\(2, 2\)"):
        compare_logits(REFERENCE, REFERENCE[:, :2])


def test_noise_is_seeded_and_every_image_differs() -> None:
    signature = Signature((8, 6), 3)
    images = draw_seeded_noise(signature, 5, seed=1)
    assert images.shape == (5, 3, 8, 6)
    assert images.dtype == np.float32
    assert len(np.unique(images.reshape(5, -1), axis=0)) == 5
    np.testing.assert_array_equal(images, draw_seeded_noise(signature, 5, seed=1))
    assert not np.array_equal(images, draw_seeded_noise(signature, 5, seed=2))
