"""On a clock that the fake backends move themselves, and once on the real one."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from itertools import count, pairwise

import numpy as np
import pytest

from hvt_deploy.evaluation.latency import measure_latency, median_interval, speedup_interval
from hvt_deploy.runtime.base import DeviceCall, Launches


class FakeMachine:
    """A clock, and backends that take the milliseconds they are told; `calls` is their order."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.calls: list[str] = []

    def clock_ns(self) -> int:
        return self.now_ns

    def backend(self, name: str, durations_ms: Iterator[float]) -> Callable[[], None]:
        def call() -> None:
            self.calls.append(name)
            self.now_ns += round(next(durations_ms) * 1e6)

        return call

    def noisy(self, name: str, ms: float, spread: float, seed: int) -> Callable[[], None]:
        rng = np.random.default_rng(seed)
        return self.backend(name, (ms * float(np.exp(rng.normal(0, spread))) for _ in count()))


def test_ratios_and_medians_are_those_of_the_backends() -> None:
    machine = FakeMachine()
    bound = {"torch": machine.noisy("torch", 8, 0.1, 1), "ort": machine.noisy("ort", 2, 0.1, 2)}
    result = measure_latency(bound, 4, clock_ns=machine.clock_ns)
    assert result["torch"].batch == 4
    assert result["torch"].median == pytest.approx(8, rel=0.03)
    assert result["ort"].median == pytest.approx(2, rel=0.03)
    assert result["ort"].min < result["ort"].median < result["ort"].p90 < result["ort"].p99
    speedup = speedup_interval(result["torch"], result["ort"])
    assert speedup is not None
    assert 3.7 < speedup.low < 4 < speedup.high < 4.3
    middle = median_interval(result["ort"])
    assert middle is not None
    assert middle.low < 2 < middle.high


def test_a_gpu_is_timed_by_its_own_clock_one_by_one_and_back_to_back() -> None:
    """Each time has a launch gap of 1 ms, whatever the number of launches; the host's clock stands
    still.
    """
    asked: list[int] = []
    noise = np.random.default_rng(0)

    def time_launches(launches: int) -> float:
        asked.append(launches)
        return (1 + 4 * launches) * float(np.exp(noise.normal(0, 0.01)))

    launches = Launches(cuda_graph=True, trtexec="trtexec --loadEngine=m")
    call = DeviceCall(time_launches, lambda: np.zeros((1, 2), np.float32), launches)
    found = measure_latency({"trt": call}, 8, clock_ns=lambda: 0)["trt"]
    assert found.clock == "CUDA events"
    assert found.median == pytest.approx(5, rel=0.01)
    assert found.gpu is not None
    assert found.gpu.back_to_back_ms == pytest.approx(4 + 1 / 12, rel=0.01)  # 60 ms a window
    assert len(found.gpu.windows_ms) == len(found.windows_ms)
    assert found.gpu.launches == launches
    assert found.throughput_img_s == pytest.approx(8000 / found.gpu.back_to_back_ms)
    assert set(asked) == {1, 12}


def test_a_gpu_is_stable_only_if_both_of_its_times_are() -> None:
    grown = count()

    def time_launches(launches: int) -> float:
        return 5.0 if launches == 1 else launches * (4 + 0.1 * next(grown))

    call = DeviceCall(time_launches, lambda: np.zeros((1, 2)), Launches(cuda_graph=False))
    machine = FakeMachine()
    cpu = machine.backend("ort", iter(lambda: 5.0, None))
    found = measure_latency({"trt": call, "ort": cpu}, 1, budget_s=10, clock_ns=machine.clock_ns)
    assert (found["trt"].stable, found["ort"].stable) == (False, True)
    assert (found["ort"].clock, found["ort"].gpu) == ("host", None)


def test_each_window_is_told_with_its_backend() -> None:
    machine, seen = FakeMachine(), list[str]()
    bound = {name: machine.backend(name, iter(lambda: 20.0, None)) for name in "ab"}

    def after_window(name: str) -> None:
        assert machine.calls[-1] == name
        seen.append(name)

    result = measure_latency(bound, 1, clock_ns=machine.clock_ns, after_window=after_window)
    assert seen.count("a") == seen.count("b") == len(result["a"].windows_ms)


def test_two_identical_backends_are_not_called_different() -> None:
    machine = FakeMachine()
    bound = {"fp16": machine.noisy("fp16", 5, 0.05, 3), "int8": machine.noisy("int8", 5, 0.05, 4)}
    result = measure_latency(bound, 1, clock_ns=machine.clock_ns)
    speedup = speedup_interval(result["fp16"], result["int8"])
    assert speedup is not None
    assert speedup.low < 1 < speedup.high


def test_every_round_has_one_window_of_each_backend_and_no_fixed_neighbours() -> None:
    machine = FakeMachine()
    names = "abcd"
    # 20 ms a call: three calls and the one before them make every window of four.
    bound = {name: machine.backend(name, iter(lambda: 20.0, None)) for name in names}
    result = measure_latency(bound, 1, clock_ns=machine.clock_ns)
    warm_up = machine.calls.index("b")
    windows = machine.calls[len(names) * warm_up :: 4]
    assert machine.calls[len(names) * warm_up :] == [name for name in windows for _ in range(4)]
    rounds = [windows[i : i + len(names)] for i in range(0, len(windows), len(names))]
    assert len(rounds) == len(result["a"].windows_ms)
    assert all(sorted(one) == list(names) for one in rounds)
    assert {before for before, after in pairwise(windows) if after == "a"} >= {"b", "c", "d"}


def test_a_drift_of_the_machine_cancels_in_the_ratio() -> None:
    machine = FakeMachine()

    def drifting(ms: float) -> Iterator[float]:
        while True:
            yield ms * (1 + machine.now_ns / 4e9)  # a quarter slower every second

    bound = {
        name: machine.backend(name, drifting(ms)) for name, ms in (("slow", 9.0), ("fast", 3.0))
    }
    result = measure_latency(bound, 1, budget_s=10, clock_ns=machine.clock_ns)
    speedup = speedup_interval(result["slow"], result["fast"])
    assert speedup is not None
    assert speedup.estimate == pytest.approx(3, rel=0.02)
    assert not result["slow"].stable
    assert result["slow"].windows_ms[-1] > 1.2 * result["slow"].windows_ms[0]


def test_it_goes_on_until_the_median_is_stable() -> None:
    machine = FakeMachine()

    def settling() -> Iterator[float]:
        while True:
            yield max(10.0, 20.0 - machine.now_ns / 0.3e9)  # clocks rise for three seconds

    result = measure_latency(
        {"gpu": machine.backend("gpu", settling())}, 1, clock_ns=machine.clock_ns
    )["gpu"]
    assert result.stable
    assert result.median == pytest.approx(10, rel=0.02)
    at_once = FakeMachine()
    steady = at_once.backend("gpu", iter(lambda: 10.0, None))
    assert measure_latency({"gpu": steady}, 1, clock_ns=at_once.clock_ns)["gpu"].stable
    assert at_once.now_ns < 3e9


def test_a_backend_that_never_settles_ends_with_the_budget_and_says_so() -> None:
    machine = FakeMachine()
    growing = (2.0 * 1.002**i for i in count())
    seen: list[tuple[int, int]] = []
    result = measure_latency(
        {
            "wild": machine.backend("wild", growing),
            "calm": machine.backend("calm", iter(lambda: 1.0, None)),
        },
        1,
        budget_s=20,
        progress=lambda done, total: seen.append((done, total)),
        clock_ns=machine.clock_ns,
    )
    assert not result["wild"].stable
    assert result["calm"].stable
    assert 20 <= machine.now_ns / 1e9 < 60
    assert seen == sorted(seen)
    assert seen[-1] == (20, 20)


def test_one_round_of_a_very_slow_backend_is_measured_but_proves_nothing() -> None:
    machine = FakeMachine()
    result = measure_latency(
        {"slow": machine.noisy("slow", 9000, 0.01, 1)}, 1, budget_s=5, clock_ns=machine.clock_ns
    )
    assert result["slow"].median == pytest.approx(9000, rel=0.05)
    assert not result["slow"].stable
    assert speedup_interval(result["slow"], result["slow"]) is None
    assert median_interval(result["slow"]) is None


def test_samples_are_bounded_however_long_it_runs() -> None:
    machine = FakeMachine()
    growing = (0.01 * 1.0005**i for i in count())
    result = measure_latency(
        {"x": machine.backend("x", growing)}, 1, budget_s=30, clock_ns=machine.clock_ns
    )["x"]
    assert len(machine.calls) > 3 * len(result.samples_ms)
    assert len(result.samples_ms) <= 2000
    assert len(result.windows_ms) <= 20


def test_the_garbage_collector_is_as_before_even_after_an_error() -> None:
    def broken() -> None:
        assert not gc.isenabled()
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        measure_latency({"broken": broken}, 1)
    assert gc.isenabled()


def test_real_calls_on_the_real_clock() -> None:
    bound = {"slow": lambda: time.sleep(0.012), "fast": lambda: time.sleep(0.004)}
    result = measure_latency(bound, 1, budget_s=4)
    assert result["slow"].min >= 12
    speedup = speedup_interval(result["slow"], result["fast"])
    assert speedup is not None
    assert 2 < speedup.estimate < 3.5
    assert speedup.low > 1.3


def test_a_backend_that_fails_is_left_out_and_so_are_those_that_end_with_it() -> None:
    machine, failed = FakeMachine(), list[str]()

    def wearing_out() -> Iterator[float]:
        yield from [5.0] * 120
        raise RuntimeError("an illegal memory access was encountered")

    def on_failure(name: str, error: Exception) -> list[str]:
        failed.append(f"{name}: {error}")
        return ["trt", "torch"]

    bound = {
        "trt": machine.backend("trt", wearing_out()),
        "torch": machine.backend("torch", iter(lambda: 5.0, None)),
        "ort": machine.noisy("ort", 5, 0.1, 1),
    }
    result = measure_latency(
        bound, 1, clock_ns=machine.clock_ns, budget_s=30, on_failure=on_failure
    )
    assert list(result) == ["ort"]
    assert result["ort"].median == pytest.approx(5, rel=0.03)
    assert failed == ["trt: an illegal memory access was encountered"]
