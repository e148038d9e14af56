"""The load of other processes: read from a file of planted counts, and real."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from hvt_deploy.evaluation import machine_load
from hvt_deploy.evaluation.machine_load import LoadMeter

_BUSY = "import time; end = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


def _plant(path, user_ticks, idle_ticks):
    other_cpu = "cpu7 999999 0 0 0 0 0 0 0 0 0"
    lines = [f"cpu{i} {user_ticks} 0 0 {idle_ticks} 500 0 0 0 0 0" for i in (0, 1)]
    path.write_text("\n".join(["cpu 1 1 1 1", *lines, other_cpu, "intr 5 6"]))


def test_the_share_is_of_what_the_process_may_use_without_its_own(monkeypatch, tmp_path):
    seconds, own = [100.0, 110.0], [(2.0, 1.0, 0.0, 0.0, 0.0), (6.0, 2.0, 1.0, 0.0, 9.0)]
    monkeypatch.setattr(machine_load, "_STAT", tmp_path / "stat")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "sysconf", lambda _: 100)
    monkeypatch.setattr(time, "monotonic", lambda: seconds.pop(0))
    monkeypatch.setattr(os, "times", lambda: own.pop(0))
    _plant(tmp_path / "stat", 1000, 0)
    meter = LoadMeter()
    _plant(tmp_path / "stat", 1500, 500)  # both were busy for 5 s, 6 s of the 10 s are ours
    assert meter.read_others() == pytest.approx(4 / 20)


def test_another_process_is_seen():
    other = subprocess.Popen([sys.executable, "-c", _BUSY])
    try:
        meter = LoadMeter()
        time.sleep(0.5)
        share = meter.read_others()
    finally:
        other.kill()
        other.wait()
    assert share is not None
    assert share > 0.2 / len(os.sched_getaffinity(0))


def test_a_machine_that_does_not_say_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(machine_load, "_STAT", tmp_path / "stat")
    assert LoadMeter().read_others() is None
