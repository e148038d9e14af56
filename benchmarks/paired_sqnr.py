"""SQNR of logits image by image, and its difference between two quantizers with an interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.tensors import LabelsN, LogitsNK, sqnr_db
from hvt_deploy.evaluation.scores import Interval

_RESAMPLES, _LEVEL = 2000, 0.95


def sum_by_photograph(
    reference_NK: LogitsNK, found_NK: LogitsNK, photographs_N: LabelsN
) -> NDArray[np.float64]:
    """The sum of squared differences from the reference over the images of each photograph."""
    reference, found = reference_NK.astype(np.float64), found_NK.astype(np.float64)
    noise_P = np.zeros(int(photographs_N.max()) + 1)
    np.add.at(noise_P, photographs_N, np.square(found - reference).sum(axis=1))
    return noise_P


def worst_sqnr_db(reference_NK: LogitsNK, found_NK: LogitsNK) -> float:
    """The lowest SQNR of an image, dB."""
    reference, found = reference_NK.astype(np.float64), found_NK.astype(np.float64)
    signal_N = np.square(reference).sum(axis=1)
    noise_N = np.square(found - reference).sum(axis=1)
    return min(sqnr_db(s, n) for s, n in zip(signal_N.tolist(), noise_N.tolist(), strict=True))


def compare_sqnr(ours_P: NDArray[np.float64], other_P: NDArray[np.float64]) -> Interval:
    """By how many dB the SQNR of ours is above that of another, from the noise of the same
    photographs (P,), with a paired percentile bootstrap over them.

    The reference is the same, so the signal cancels.
    """
    rng, count = np.random.default_rng(0), len(ours_P)
    drawn_RP = rng.integers(count, size=(_RESAMPLES, count))
    ratios = np.log10(other_P[drawn_RP].sum(axis=1) / ours_P[drawn_RP].sum(axis=1))
    low, high = np.quantile(10 * ratios, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    estimate = 10 * np.log10(other_P.sum() / ours_P.sum())
    return Interval(float(estimate), float(low), float(high))
