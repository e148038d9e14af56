"""A comparison with logits that the official code gave in float32 only is said to be one."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import run

from hvt_deploy.cli.about import RECORDED_IN_FLOAT32
from hvt_deploy.models import golden_check, list_specs
from hvt_deploy.models.golden_check import list_goldens

README = Path(__file__).parents[2] / "README.md"


def test_a_check_in_float32_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = list_goldens("hvt_ti_1")[:1]
    text = run("models", "--verify", "hvt_ti_1", cwd=tmp_path)
    assert text.returncode == 0
    assert "float32" not in text.stdout
    only_float32 = [replace(golden, f32_vs_f64_max_abs_diff=None) for golden in recorded]
    monkeypatch.setattr(golden_check, "list_goldens", lambda _: only_float32)
    text = run("models", "--verify", "hvt_ti_1", cwd=tmp_path)
    assert text.returncode == 0
    assert RECORDED_IN_FLOAT32 in text.stdout
    plain = json.loads(run("models", "--verify", "hvt_ti_1", "--json", cwd=tmp_path).stdout)
    assert {(check["dtype"], check["allowed"]) for check in plain} == {("float32", 1e-4)}


def test_readme_names_every_model_whose_default_size_was_recorded_in_float32_only() -> None:
    in_float32 = {
        spec.name
        for spec in list_specs()
        if not spec.is_demo and not all(golden.in_float64 for golden in list_goldens(spec.name))
    }
    (row,) = (
        line for line in README.read_text().splitlines() if line.startswith("| reference forms")
    )
    named = set(re.findall(r"`(faster_vit_\w+)`", row.partition("float32")[2]))
    assert named == in_float32
