"""The quick comparison of two inferences by the CPU time of one thread."""

from __future__ import annotations

import time

import numpy as np
import pytest

from hvt_deploy.evaluation.claims import judge_ratio
from hvt_deploy.evaluation.speed_check import compare_speed


class Machine:
    """A clock that only inferences move, each by its time and some noise."""

    def __init__(self, noise=0.02):
        self.now_ns, self.calls = 0, 0
        self._noise = np.random.default_rng(0).normal(1, noise, 100_000)

    def take(self, ms):
        def call():
            self.now_ns += int(1e6 * ms(self) * self._noise[self.calls])
            self.calls += 1

        return call

    def compare(self, before_ms, after_ms):
        calls = (self.take(lambda machine: before_ms), self.take(after_ms))
        return compare_speed(*calls, clock_ns=lambda: self.now_ns)


@pytest.mark.parametrize(
    ("ms", "outcome"), [(13.5, "slower"), (5, "faster"), (10, "no difference")]
)
def test_the_ratio_of_two_inferences_is_found(ms, outcome):
    ratio = Machine().compare(10, lambda machine: ms)
    assert ratio.estimate == pytest.approx(10 / ms, rel=0.03)
    assert judge_ratio(ratio, None) == outcome


def test_a_ratio_that_moves_says_nothing():
    """As where the machine's clock falls for one of them halfway."""
    machine = Machine()
    assert machine.compare(10, lambda machine: 9 if machine.calls < 18 else 14) is None


def test_a_ratio_that_scatters_proves_nothing():
    assert judge_ratio(Machine(noise=0.5).compare(100, lambda machine: 110), None) != "slower"


@pytest.mark.parametrize(("ms", "rounds"), [(300, 6), (204, 12)])
def test_a_large_model_is_called_a_few_times_only(ms, rounds):
    machine = Machine()
    machine.compare(200, lambda machine: ms)
    assert machine.calls == 2 * (1 + 1 + rounds)


def test_time_that_others_take_does_not_count():
    matrix = np.random.default_rng(0).standard_normal((500, 500))

    def compute():
        np.linalg.inv(matrix)

    def compute_and_wait():
        compute()
        time.sleep(0.02)

    ratio = compare_speed(compute, compute_and_wait)
    assert ratio is None or ratio.estimate > 0.75
