from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hvt_deploy.core.environment import Gpu

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_check.py"


@pytest.fixture
def gpu_check(monkeypatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
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
    assert "tests" not in report(tmp_path)


def test_section_that_fails_leaves_the_others(gpu_check, monkeypatch, tmp_path: Path) -> None:
    def broken(model: str, folder: Path) -> dict[str, object]:
        raise RuntimeError("the driver is gone")

    monkeypatch.setattr(
        gpu_check, "find_gpus", lambda: (Gpu("NVIDIA H100", "9.0", 81559, "580.1"),)
    )
    monkeypatch.setattr(gpu_check, "run_tests", broken)
    monkeypatch.setattr(gpu_check, "run_demo", lambda folder: {"ok": True})
    assert gpu_check.main() == 1
    written = report(tmp_path)
    assert written["machine"]["gpus"][0]["name"] == "NVIDIA H100"
    assert written["tests"] == {"ok": False, "error": "RuntimeError: the driver is gone"}
    assert written["demo"]["ok"]


def test_every_gpu_test_is_run_and_its_outcome_kept(gpu_check, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi: every test is skipped
    section = gpu_check.run_tests("fdvit_ti", tmp_path)
    assert section["ok"]
    assert len(section["tests"]) >= 14
    assert all("no NVIDIA GPU" in outcome for outcome in section["tests"].values())
