"""The quick comparison of two inferences by the CPU time of one thread."""

from __future__ import annotations

import time

import numpy as np
import pytest

from hvt_deploy.evaluation.speed_check import find_slowdown


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
        return find_slowdown(*calls, clock_ns=lambda: self.now_ns)


@pytest.mark.parametrize("ms", [13.5, 11])
def test_a_slower_inference_is_found(ms):
    ratio = Machine().compare(10, lambda machine: ms)
    assert ratio.estimate == pytest.approx(10 / ms, rel=0.03)
    assert ratio.high < 0.96


@pytest.mark.parametrize("ms", [5, 9.5, 10, 10.2])
def test_one_that_is_not_slower_is_not(ms):
    assert Machine().compare(10, lambda machine: ms) is None


def test_a_ratio_that_moves_says_nothing():
    """As where the machine's clock falls for one of them halfway."""
    machine = Machine()
    assert machine.compare(10, lambda machine: 10.5 if machine.calls < 18 else 14) is None


def test_a_ratio_that_scatters_proves_nothing():
    assert Machine(noise=0.5).compare(100, lambda machine: 110) is None


@pytest.mark.parametrize(("ms", "rounds"), [(100, 3), (300, 6), (204, 12)])
def test_a_large_model_is_called_a_few_times_only(ms, rounds):
    machine = Machine()
    machine.compare(200, lambda machine: ms)
    assert machine.calls == 2 * rounds


def test_time_that_others_take_does_not_count():
    matrix = np.random.default_rng(0).standard_normal((500, 500))

    def compute():
        np.linalg.inv(matrix)

    def compute_and_wait():
        compute()
        time.sleep(0.02)

    ratio = find_slowdown(compute, compute_and_wait)
    assert ratio is None or ratio.estimate > 0.75
