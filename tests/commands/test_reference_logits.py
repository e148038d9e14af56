"""Recorded reference predictions: a machine without PyTorch compares with PyTorch all the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command_line import run_without_torch

from hvt_deploy.core.errors import BadInput
from hvt_deploy.evaluation.reference_logits import RecordedLogits, read_recorded


def validate_elsewhere(root, images, *arguments):
    where = ("--data", images, "--workspace", "elsewhere")
    return run_without_torch("validate", *where, *arguments, cwd=root)


def test_without_pytorch_the_recorded_logits_are_the_reference(recorded):
    root, results = recorded
    done = validate_elsewhere(root, "digits/validation", "--limit", "60", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["backend"] for row in rows][:2] == ["pytorch fp32 (recorded)", "ort fp32"]
    reference, ort = rows[:2]
    assert reference["accuracy"]["top1"]["estimate"] == results.rows[0].accuracy.top1.estimate
    assert reference["timings"] == []
    assert "another machine" in reference["note"]
    assert ort["fidelity"]["agreement"]["estimate"] == 100
    assert ort["fidelity"]["sqnr_db"] > 100, "what was recorded is not rounded"


def test_images_that_were_not_recorded_are_named(recorded):
    root, _ = recorded
    done = validate_elsewhere(root, "digits/calibration", "--json")
    assert done.returncode == 2
    assert "not among the 60 that were recorded" in done.stderr
    assert "digits/calibration/" in done.stderr


def test_other_weights_make_the_record_stale(recorded):
    root, _ = recorded
    manifest = root / "elsewhere" / "hvt_demo" / "manifest.json"
    text = manifest.read_text()
    data = json.loads(text)
    weights = data["artifacts"]["pytorch"]
    weights["files"] = {weights["main"]: "0" * 64}
    manifest.write_text(json.dumps(data))
    done = validate_elsewhere(root, "digits/validation", "--limit", "60")
    manifest.write_text(text)
    assert done.returncode == 2
    assert "another 'pytorch'" in done.stderr
    assert "--record" in done.stderr


def test_a_record_comes_back_and_a_damaged_one_is_refused(tmp_path):
    # In float16 the last two are equal, and the first of them would win.
    logits = {f"{i:064x}": np.array([-i, i, 10, 10.001], np.float32) for i in range(3)}
    RecordedLogits(logits).write(tmp_path / "r.npz")
    again = read_recorded(tmp_path / "r.npz")
    assert again.logits.keys() == logits.keys()
    assert np.array_equal(again.of([f"{2:064x}"], [tmp_path]), logits[f"{2:064x}"][None])
    (tmp_path / "r.npz").write_bytes((tmp_path / "r.npz").read_bytes()[:50])
    with pytest.raises(BadInput, match="does not hold recorded logits"):
        read_recorded(tmp_path / "r.npz")
