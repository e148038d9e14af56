from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hvt_deploy.core.gpus import Gpu

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_check.py"


@pytest.fixture
def gpu_check(monkeypatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_check", module)  # its dataclass looks itself up
    assert spec.loader is not None
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    return module


def report(tmp_path: Path) -> dict[str, dict[str, object]]:
    return json.loads((tmp_path / "out" / "gpu_check.json").read_text())


def test_without_a_gpu_it_says_so_and_what_the_machine_has(
    gpu_check, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_check, "find_gpus", lambda: ())
    assert gpu_check.main() == 3
    assert "numpy" in report(tmp_path)["machine"]["versions"]
    assert "pytorch" not in report(tmp_path)


def test_section_that_fails_leaves_the_others(gpu_check, monkeypatch, tmp_path: Path) -> None:
    def run_tests(section: object, model: str, folder: Path) -> dict[str, object]:
        if section is gpu_check.TEST_SECTIONS["pytorch"]:
            raise RuntimeError("the driver is gone")
        return {"verdict": "cannot here"}

    monkeypatch.setattr(gpu_check, "find_gpus", lambda: (Gpu("NVIDIA H100", "9.0", 81559, "13.0"),))
    monkeypatch.setattr(gpu_check, "run_tests", run_tests)
    monkeypatch.setattr(gpu_check, "run_demo", lambda folder: {"verdict": "verified"})
    assert gpu_check.main() == 1
    written = report(tmp_path)
    assert written["machine"]["gpus"][0]["name"] == "NVIDIA H100"
    failed = {"verdict": "failed", "error": "RuntimeError: the driver is gone"}
    assert written["pytorch"] == failed
    assert written["onnxruntime"]["verdict"] == "cannot here"
    assert written["demo"]["verdict"] == "verified"
    assert json.loads((tmp_path / "out" / "gpu_check.pytorch.json").read_text()) == failed


@pytest.mark.slow  # five runs of pytest
def test_every_gpu_test_is_in_one_section_and_its_outcome_kept(
    gpu_check, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi: every test is skipped
    every = gpu_check.run_tests(gpu_check.TestSection("test", 100), "fdvit_ti", tmp_path)
    assert every["verdict"] == "cannot here"
    assert len(every["tests"]) >= 14
    assert all("no NVIDIA GPU" in outcome for outcome in every["tests"].values())
    tests: list[str] = []
    for section in gpu_check.TEST_SECTIONS.values():
        tests += gpu_check.run_tests(section, "fdvit_ti", tmp_path)["tests"]
    assert sorted(tests) == sorted(every["tests"])


def test_section_that_takes_too_long_has_failed(gpu_check, tmp_path: Path) -> None:
    code = "import time; print('started', flush=True); time.sleep(60)"
    record = gpu_check.run_command([sys.executable, "-c", code], tmp_path, os.environ, 2)
    assert (record["verdict"], record["exit_code"]) == ("failed", "time limit")
    assert "started" in record["output_end"]
