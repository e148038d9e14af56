"""The intervals and tests behind every number of a report. All intervals are two-sided 95 %."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.evaluation.scores import Interval

Counts: TypeAlias = "float | NDArray[np.int64]"

CONFIDENCE = 0.95
CONFIDENCE_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_BOOTSTRAP_SAMPLES = 4000
# Lag-1 correlation, corrected for its bias. Of 20 independent samples it is above the first in one
# of five series.
_NEARLY_INDEPENDENT, _MOST_CORRELATION = 0.2, 0.95

# Below this many paired observations no order statistic covers a median with 95 % (1 - 2 · 0.5^5 =
# 0.9375).
FEWEST_FOR_MEDIAN = 6


def wilson_interval(successes: int, n: int) -> Interval:
    """The share of successes in percent with Wilson's score interval.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22
    (1927). Raises ValueError unless 0 <= successes <= n and n > 0.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n} are not a share.")
    share, z2 = successes / n, CONFIDENCE_Z * CONFIDENCE_Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = CONFIDENCE_Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At both ends the formula touches 0 or 1 exactly, but for rounding.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(100 * share, 100 * low, 100 * high)


def mcnemar_exact(b: int, c: int) -> float:
    """The two-sided p-value that `b` and `c`, the two kinds of discordant pairs, are equally
    likely.

    Source: McNemar, Psychometrika 12 (1947), with the exact binomial distribution instead of
    chi-square: p = min(1, 2 · P(X <= min(b, c))) for X ~ Binomial(b + c, 1/2).
    """
    n, ways, tail = b + c, 1, 0
    for k in range(min(b, c) + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)
    # Integers throughout: the quotient is rounded once, however many pairs there are.
    return min(1.0, 2 * tail / 2**n)


def tango_interval(b: int, c: int, n: int) -> Interval:
    """The difference (b - c) / n of two paired proportions in points of percent, with Tango's score
    interval.

    Of `n` pairs, `b` succeed only in the first and `c` only in the second. Unlike Wald's, the
    interval has a width when no pair is discordant. Source: Tango, "Equivalence test and confidence
    interval for the difference in proportions for the paired-sample design", Statistics in Medicine
    17 (1998), section 3. Raises ValueError unless b, c >= 0, b + c <= n and n > 0.
    """
    if min(b, c) < 0 or b + c > n or n == 0:
        raise ValueError(f"{b} and {c} discordant pairs of {n} are not possible.")
    return Interval(100 * (b - c) / n, -100 * _tango_upper(c, b, n), 100 * _tango_upper(b, c, n))


def _tango_upper(b: float, c: float, n: float) -> float:
    """The upper end as a fraction."""
    return tango_bound(b, c, n, CONFIDENCE_Z)[0]


def tango_bound(b: float, c: float, n: float, z: float) -> tuple[float, float]:
    """The largest difference, as a fraction, whose score statistic is not below -`z`, and the share
    of pairs that succeed only in the second which is likeliest with it.
    """
    low, high = (b - c) / n, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        if tango_scores(b, c, n, middle) > -z:
            low = middle
        else:
            high = middle
    return high, float(_only_second(b, c, n, high))


def tango_scores(b: Counts, c: Counts, n: float, delta: float) -> NDArray[np.float64] | np.float64:
    """Score statistics of a difference of `delta`, a fraction; they fall as `delta` rises."""
    variance = n * (2 * _only_second(b, c, n, delta) + delta * (1 - delta))
    # The variance is 0 only at -1, 1, and at 0 with b = c = 0: nothing is proven there.
    score = (np.subtract(b, c) - n * delta) / np.sqrt(np.where(variance > 0, variance, np.inf))
    return np.asarray(score, np.float64)[()]


def _only_second(b: Counts, c: Counts, n: float, delta: float) -> NDArray[np.float64] | np.float64:
    """The maximum-likelihood estimate of the second discordant probability where the difference is
    `delta`: the larger root q of 2n·q² + linear·q - c·delta·(1 - delta) = 0 (Tango, section 2).
    """
    linear = (2 * n - np.subtract(b, c)) * delta - np.add(b, c)
    constant = np.multiply(c, -delta * (1 - delta))
    root = np.sqrt(np.maximum(0.0, linear * linear - 8 * n * constant))
    return np.maximum(0.0, (root - linear) / (4 * n))


def bootstrap_median_interval(samples: Sequence[float], seed: int = 0) -> Interval | None:
    """The median of samples, in the order they were taken, with its percentile bootstrap interval;
    None below six samples.

    Samples whose lag-1 correlation r is above 0.2 count as fewer: the interval is wider by the
    square root of (1 + r) / (1 - r). In short series r is corrected for its bias. Sources: Efron,
    "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979); Zwiers and
    von Storch, "Taking serial correlation into account in tests of the mean", Journal of Climate 8
    (1995); Marriott and Pope, and Kendall, on the bias of autocorrelations, Biometrika 41 (1954).
    """
    if len(samples) < FEWEST_FOR_MEDIAN:
        return None
    values = np.asarray(samples, np.float64)
    picks = np.random.default_rng(seed).integers(0, len(values), (_BOOTSTRAP_SAMPLES, len(values)))
    medians = np.median(values[picks], axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = map(float, np.quantile(medians, (tail, 1 - tail)))
    middle, wider = float(np.median(values)), _widen_for_correlation(values)
    return Interval(middle, middle - wider * (middle - low), middle + wider * (high - middle))


def _widen_for_correlation(values: NDArray[np.float64]) -> float:
    """By how much the interval of the median of a series is wider than that of as many independent
    samples; 1 where each sample is nearly independent of the one before it.
    """
    deviations = values - values.mean()
    variance = float(deviations @ deviations)
    correlation = float(deviations[:-1] @ deviations[1:]) / variance if variance else 0.0
    n = len(values)
    unbiased = min(((n - 1) * correlation + 1) / (n - 4), _MOST_CORRELATION)
    if unbiased <= _NEARLY_INDEPENDENT:
        return 1.0
    return math.sqrt((1 + unbiased) / (1 - unbiased))


def bootstrap_ratio_interval(
    samples_a: Sequence[float], samples_b: Sequence[float], seed: int = 0
) -> Interval | None:
    """The median of the paired ratios a / b with its percentile bootstrap interval; None below six
    pairs.

    Sample i of both was taken at nearly the same time, so a drift of the machine cancels in each
    ratio. Raises ValueError where the lengths differ.
    """
    return bootstrap_median_interval(
        [a / b for a, b in zip(samples_a, samples_b, strict=True)], seed
    )


def newcombe_interval(before: Interval, after: Interval) -> Interval:
    """95 % interval of `after` minus `before`, two shares of independent samples with their Wilson
    intervals.

    Newcombe 1998, "Interval estimation for the difference between independent proportions", method
    10. For the same images twice it is wider than need be.
    """
    difference = after.estimate - before.estimate
    down = math.hypot(after.estimate - after.low, before.high - before.estimate)
    up = math.hypot(after.high - after.estimate, before.estimate - before.low)
    return Interval(difference, difference - down, difference + up)
