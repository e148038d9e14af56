"""Each formula against an independent source: SciPy, a search without the formula, published
numbers, simulation.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from hvt_deploy.evaluation.scores import Interval
from hvt_deploy.evaluation.statistics import (
    bootstrap_median_interval,
    bootstrap_ratio_interval,
    mcnemar_exact,
    tango_interval,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "n"), [(0, 7), (7, 7), (1, 10), (81, 263), (15, 148), (41_234, 50_000)]
)
def test_wilson_equals_scipy(successes: int, n: int) -> None:
    theirs = binomtest(successes, n).proportion_ci(0.95, "wilson")
    ours = wilson_interval(successes, n)
    assert (ours.low, ours.high) == pytest.approx((100 * theirs.low, 100 * theirs.high), abs=1e-9)
    assert ours.estimate == pytest.approx(100 * successes / n)
    assert 0 <= ours.low <= ours.estimate <= ours.high <= 100


def test_wilson_gives_the_published_values() -> None:
    # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
    assert wilson_interval(81, 263).low == pytest.approx(25.53, abs=0.005)
    assert wilson_interval(81, 263).high == pytest.approx(36.62, abs=0.005)
    assert wilson_interval(1, 29).high == pytest.approx(17.18, abs=0.005)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_no_share(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="share"):
        wilson_interval(successes, n)


@pytest.mark.parametrize(
    ("b", "c"), [(0, 0), (0, 1), (5, 0), (6, 16), (40, 40), (59, 6), (612, 540)]
)
def test_mcnemar_equals_the_binomial_test_of_scipy(b: int, c: int) -> None:
    expected = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar_exact(b, c) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_exact(c, b) == mcnemar_exact(b, c)


def test_mcnemar_of_very_many_pairs_neither_overflows_nor_hangs() -> None:
    assert mcnemar_exact(9_000, 9_000) == 1.0
    assert 0 <= mcnemar_exact(11_000, 7_000) < 1e-100


@pytest.mark.parametrize(("n", "points"), [(10, 27.8), (500, 0.77), (5000, 0.08)])
def test_tango_without_a_discordant_pair_has_a_width(n: int, points: float) -> None:
    interval = tango_interval(0, 0, n)
    assert interval.estimate == 0
    assert interval.high == pytest.approx(points, rel=0.05)
    assert interval.low == -interval.high


def test_tango_gives_the_published_interval() -> None:
    # Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014) 2850-2875: airway reactivity
    # of 21 children before and after a transplantation, 1 and 7 discordant pairs; Tango's interval
    # is -0.517 to -0.026.
    interval = tango_interval(1, 7, 21)
    assert interval.estimate == pytest.approx(-28.6, abs=0.05)
    assert (interval.low, interval.high) == pytest.approx((-51.7, -2.6), abs=0.05)


@pytest.mark.parametrize(
    ("b", "c", "n"),
    [(1, 0, 44), (3, 1, 20), (12, 30, 500), (20, 0, 20), (7, 7, 15), (80, 55, 5000)],
)
def test_tango_ends_are_where_the_constrained_likelihood_puts_the_score(
    b: int, c: int, n: int
) -> None:
    interval = tango_interval(b, c, n)
    for end in (interval.low / 100, interval.high / 100):
        if abs(end) < 1 - 1e-9:
            assert abs(_brute_force_score(b, c, n, end)) == pytest.approx(1.959964, abs=2e-3)
    assert interval.low < interval.estimate <= interval.high
    mirrored = tango_interval(c, b, n)
    assert (mirrored.low, mirrored.high) == pytest.approx((-interval.high, -interval.low), abs=1e-9)


def _brute_force_score(b: int, c: int, n: int, delta: float) -> float:
    """The score statistic with the nuisance probability found by a search, not by a formula."""
    low, high = max(0.0, -delta), (1 - delta) / 2

    def log_likelihood(q: float) -> float:
        cells = ((b, q + delta), (c, q), (n - b - c, 1 - 2 * q - delta))
        return sum(count * math.log(max(p, 1e-300)) for count, p in cells if count)

    for _ in range(200):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if log_likelihood(left) < log_likelihood(right):
            low = left
        else:
            high = right
    variance = (2 * (low + high) / 2 + delta * (1 - delta)) / n
    return ((b - c) / n - delta) / math.sqrt(variance)


@pytest.mark.parametrize(
    ("p_b", "p_c", "n"), [(0.02, 0.01, 500), (0.10, 0.02, 200), (0.004, 0.004, 2000)]
)
def test_tango_covers_the_truth_95_times_in_100(p_b: float, p_c: float, n: int) -> None:
    trials = 3000
    counts = np.random.default_rng(7).multinomial(n, (p_b, p_c, 1 - p_b - p_c), trials)
    pairs, how_often = np.unique(counts[:, :2], axis=0, return_counts=True)
    covered = 0
    for (b, c), times in zip(pairs.tolist(), how_often.tolist(), strict=True):
        interval = tango_interval(b, c, n)
        covered += times * (interval.low <= 100 * (p_b - p_c) <= interval.high)
    assert 0.935 <= covered / trials <= 0.965


@pytest.mark.parametrize(("b", "c", "n"), [(-1, 0, 5), (3, 3, 5), (0, 0, 0)])
def test_tango_refuses_impossible_counts(b: int, c: int, n: int) -> None:
    with pytest.raises(ValueError, match="discordant"):
        tango_interval(b, c, n)


@pytest.mark.parametrize("n", [2, 5, 12])
def test_tango_has_an_interval_for_every_possible_count(n: int) -> None:
    for b in range(n + 1):
        for c in range(n + 1 - b):
            interval = tango_interval(b, c, n)
            assert -100 <= interval.low <= interval.estimate <= interval.high <= 100
            assert interval.low < interval.high


@pytest.mark.parametrize("n", [31, 43, 71])
def test_the_bootstrap_interval_of_a_median_ends_at_its_quantiles_of_2_5_and_97_5_percent(
    n: int,
) -> None:
    # For odd n a resampled median is at most the k-th smallest sample exactly where more
    # than half of the n picks are, a binomial probability. At these n it is far from 0.025.
    cumulative = binom.sf(n // 2, n, np.arange(1, n + 1) / n)
    rank = int(np.searchsorted(cumulative, 0.025))
    interval = bootstrap_median_interval(np.random.default_rng(n).permutation(n).tolist())
    assert interval is not None
    assert (interval.low, interval.estimate, interval.high) == (rank, n // 2, n - 1 - rank)


def _cover(correlation: float, trials: int = 200) -> tuple[float, float]:
    """The share of intervals of the median of 20 correlated samples that hold it, and their width;
    of the product's and of the same samples in another order.
    """
    rng, held = np.random.default_rng(5), [0, 0]
    for _ in range(trials):
        series = np.zeros(70)
        for t in range(1, 70):
            series[t] = correlation * series[t - 1] + rng.normal()
        for place, samples in enumerate((series[50:], rng.permutation(series[50:]))):
            interval = bootstrap_median_interval(samples.tolist())
            assert interval is not None
            held[place] += interval.low <= 0 <= interval.high
    return held[0] / trials, held[1] / trials


def test_samples_that_hang_together_make_the_interval_wider() -> None:
    in_order, shuffled = _cover(0.7)
    assert in_order > 0.8, "without it two intervals of three hold the median"
    assert shuffled < in_order - 0.1
    assert _cover(0.5, 500)[0] > 0.9, "a short series looks less correlated than it is"


def test_a_series_without_correlation_keeps_its_interval() -> None:
    alternating = [1.0, 2.0] * 10
    interval = bootstrap_median_interval(alternating)
    assert interval is not None
    assert (interval.low, interval.high) == (1.0, 2.0)
    assert bootstrap_median_interval([3.0] * 20) == Interval(3.0, 3.0, 3.0)
    rising = bootstrap_median_interval([float(i) for i in range(20)])
    shuffled = bootstrap_median_interval(np.random.default_rng(1).permutation(20).tolist())
    assert rising is not None
    assert shuffled is not None
    assert rising.high - rising.low > 3 * (shuffled.high - shuffled.low)


def test_bootstrap_needs_six_samples() -> None:
    assert bootstrap_median_interval([1.0] * 5) is None
    assert bootstrap_median_interval([1.0] * 6) is not None


def test_bootstrap_of_a_ratio_covers_the_truth_though_the_machine_drifts() -> None:
    rng, trials, covered = np.random.default_rng(3), 200, 0
    widths: list[float] = []
    for seed in range(trials):
        drift = np.exp(np.cumsum(rng.normal(0, 0.05, 12)))
        a = 2.0 * drift * np.exp(rng.normal(0, 0.03, 12))
        b = drift * np.exp(rng.normal(0, 0.03, 12))
        interval = bootstrap_ratio_interval(a.tolist(), b.tolist(), seed)
        assert interval is not None
        assert interval.low <= interval.estimate <= interval.high
        widths.append(interval.high - interval.low)
        covered += interval.low <= 2.0 <= interval.high
    assert covered / trials >= 0.88
    assert np.quantile(widths, 0.9) < 0.35, "a drift of 20 % and more has cancelled"


def test_bootstrap_is_repeatable_and_pairs_must_pair() -> None:
    a, b = [3.0, 3.1, 2.9, 3.3, 3.0, 3.2], [1.0, 1.1, 0.9, 1.0, 1.2, 1.0]
    assert bootstrap_ratio_interval(a, b, 5) == bootstrap_ratio_interval(a, b, 5)
    with pytest.raises(ValueError, match="zip"):
        bootstrap_ratio_interval(a, b[:-1])
