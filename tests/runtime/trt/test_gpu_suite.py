"""tests/gpu starts and its bounds hold and fail where they should, on stand-ins of a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from stub_libcuda.machines import MACHINES

TESTS = Path(__file__).parents[2]


def test_gpu_suite_on_a_pretended_h100(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    records = tmp_path / "records.jsonl"
    paths = (TESTS.parent, TESTS, TESTS / "runtime" / "trt")
    environment = {
        **MACHINES["H100"].start(tmp_path),
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "GPU_CHECK_MODEL": "fdvit_demo",
        "GPU_CHECK_RECORDS": str(records),
    }
    selection = ["-m", "gpu", "-k", "not latency", str(TESTS / "gpu")]
    options = ["-q", "-p", "no:cacheprovider", "-p", "gpu_standins", f"--junitxml={report}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *selection],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = {
        str(case.get("name")): next((child.tag for child in case if child.tag != "properties"), "")
        for case in ElementTree.parse(report).getroot().iter("testcase")
    }
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
    }, done.stdout[-3000:]
    assert outcomes["test_nvml_reads_clocks_power_temperature_and_memory"] == ""
    assert '"sqnr_db"' in records.read_text(encoding="utf-8")
