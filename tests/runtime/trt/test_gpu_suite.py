"""tests/gpu starts and its bounds hold and fail where they should, on stand-ins of a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from stub_libcuda.machines import MACHINES

TESTS = Path(__file__).parents[2]


def run_gpu_tests(
    machine: str, folder: Path, options: Sequence[str]
) -> tuple[dict[str, tuple[str, str]], str]:
    """Outcome ("" for passed) and its message by test, and pytest's output."""
    report = folder / "junit.xml"
    paths = (TESTS.parent, TESTS, TESTS / "runtime" / "trt")
    environment = {
        **MACHINES[machine].start(folder),
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "GPU_CHECK_MODEL": "fdvit_demo",
        "GPU_CHECK_RECORDS": str(folder / "records.jsonl"),
    }
    command = ["-q", "-p", "no:cacheprovider", "-m", "gpu", f"--junitxml={report}", *options]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *command, str(TESTS / "gpu")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = {
        str(case.get("name")): next(
            ((one.tag, str(one.get("message"))) for one in case if one.tag != "properties"),
            ("", ""),
        )
        for case in ElementTree.parse(report).getroot().iter("testcase")
    }
    return outcomes, done.stdout[-3000:]


def test_gpu_suite_without_a_usable_gpu_is_skipped_and_says_why(tmp_path: Path) -> None:
    outcomes, output = run_gpu_tests("driver too old", tmp_path, ())
    assert len(outcomes) > 10, output
    assert {kind for kind, _ in outcomes.values()} == {"skipped"}
    for _, message in outcomes.values():
        assert "the NVIDIA driver is too old: it supports CUDA 11.4" in message


def test_gpu_suite_on_a_pretended_h100(tmp_path: Path) -> None:
    options = ("-p", "gpu_standins", "-k", "not latency")
    found, output = run_gpu_tests("H100", tmp_path, options)
    outcomes = {name: kind for name, (kind, _) in found.items()}
    engines = {name: outcome for name, outcome in outcomes.items() if "engine" in name}
    assert engines == {
        "test_engine[tensorrt-fp32]": "",
        "test_engine[tensorrt-fp16]": "failure",
        "test_engine[tensorrt-int8]": "",
        "test_engine_runs_the_numerics_of_its_own_graph[tensorrt]": "",
        # TensorRT-RTX knows no H100.
        "test_engine[rtx-fp32]": "skipped",
        "test_engine[rtx-fp16]": "skipped",
        "test_engine[rtx-int8]": "skipped",
        "test_engine_runs_the_numerics_of_its_own_graph[rtx]": "skipped",
    }, output
    assert outcomes["test_nvml_reads_clocks_power_temperature_and_memory"] == ""
    assert '"sqnr_db"' in (tmp_path / "records.jsonl").read_text(encoding="utf-8")
