"""Section `demo`: its verdict by how the demo ended and where its rows ran."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hvt_deploy.core.serialization import to_plain
from hvt_deploy.evaluation.record import DataSummary, Results, Row
from hvt_deploy.evaluation.scores import Accuracy, Interval, Latency, Timing
from hvt_deploy.evaluation.verification.check_demo import check_demo
from hvt_deploy.evaluation.verification.checks import Check, CheckList
from hvt_deploy.runtime.variant import Variant

# Stands for Python: writes the record of a demo where a GPU ran.
PYTHON = """#!/bin/sh
while [ "$1" != --output ]; do shift; done
mkdir -p "$2/artifacts/fdvit_demo/results-1"
cp {record} "$2/artifacts/fdvit_demo/results-1/results.json"
echo 'Error: it ends here.' >&2
exit {code}
"""


def run(folder: Path) -> Check:
    done: list[Check] = []
    check_demo(CheckList(done.append), folder)
    (check,) = done
    return check


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int, *rows: Row) -> None:
    """A demo that ends with `code` and has these rows."""
    data = DataSummary("digits", 10, 10, "by name", 0)
    results = Results("m", "m", "2026-03-04T05:06:07Z", False, data, rows, (), "Some rows.")
    (folder / "record.json").write_text(json.dumps(to_plain(results)))
    python = folder / "python"
    python.write_text(PYTHON.format(record=folder / "record.json", code=code))
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


def make_row(variant: Variant, skipped: str | None = None) -> Row:
    if skipped:
        return Row("m", variant.name, variant, None, skipped=skipped)
    accuracy = Accuracy(10, Interval(90.0, 60.0, 98.0), None, None, 0)
    timing = Timing(Latency(1, 2.0, 2.5, 3.0, 3.0, windows_ms=(2.5,)))
    return Row("m", variant.name, variant, None, 10, accuracy, timings=(timing,))


CPU = make_row(Variant("ort", "cpu", "fp32"))
ENGINE = Variant("trt", "cuda", "int8", target="trt10.13-sm90")


def test_demo_with_a_row_on_the_gpu(tmp_path: Path, monkeypatch) -> None:
    pretend(tmp_path, monkeypatch, 0, CPU, make_row(ENGINE))
    check = run(tmp_path)
    assert check.verdict == "verified"
    assert check.measured["trt int8 trt10.13-sm90, cuda: batch 1 median_ms"] == 2.5
    assert check.measured["ort fp32, cpu: top1_percent"] == 90.0


def test_demo_with_rows_on_the_cpu_only(tmp_path: Path, monkeypatch) -> None:
    pretend(tmp_path, monkeypatch, 0, CPU, make_row(ENGINE, "The engine is for another GPU."))
    check = run(tmp_path)
    assert (check.verdict, check.why[:42]) == (
        "cannot here",
        "No row of the demo ran on the GPU: no runt",
    )
    assert check.measured["trt int8 trt10.13-sm90, cuda"] == "The engine is for another GPU."


@pytest.mark.parametrize(("code", "verdict"), [(3, "cannot here"), (4, "failed"), (1, "failed")])
def test_demo_that_does_not_end_well(tmp_path: Path, monkeypatch, code: int, verdict: str) -> None:
    pretend(tmp_path, monkeypatch, code, make_row(ENGINE))
    check = run(tmp_path)
    assert check.verdict == verdict
    assert "Error: it ends here." in check.why


@pytest.mark.slow
def test_demo_of_this_machine(tmp_path: Path) -> None:
    check = run(tmp_path)
    assert check.verdict == "cannot here"
    top1 = [value for name, value in check.measured.items() if name.endswith("top1_percent")]
    assert len(top1) >= 4
    assert min(map(float, top1)) > 95
    assert "no NVIDIA GPU" in str(check.measured["trt int8 rtx-sm86, cuda"])
