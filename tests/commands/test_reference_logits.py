"""Recorded reference predictions: a machine without PyTorch compares with PyTorch all the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.export import export
from hvt_deploy.commands.validate import validate
from hvt_deploy.core.config import with_flags
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import open_folder
from hvt_deploy.data.digits import write_digits
from hvt_deploy.evaluation.reference_logits import RecordedLogits, read_recorded

# Stands for an environment without PyTorch and timm: importing or finding them fails.
WITHOUT_TORCH = """
import importlib.util, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "timm", "onnxsim"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in ("torch", "timm") else found(name, package)
sys.argv = ["hvt-deploy", *sys.argv[1:]]
from hvt_deploy.cli import run
run()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The trained demo model, validated with `record` on 60 digits; a machine without PyTorch gets
    a copy.
    """
    place = tmp_path_factory.mktemp("place")
    digits = write_digits(place / "digits")
    folder = open_folder(place / "artifacts", "hvt_demo")
    export(folder, config_of("hvt_demo"), None, SilentUi())
    config = with_flags(config_of("hvt_demo"), {"validation.limit": 60, "validation.threads": 1})
    done = validate(folder, config, digits.validation, None, SilentUi(), record=True)
    elsewhere = place / "elsewhere"
    shutil.copytree(place / "artifacts", elsewhere)
    shutil.rmtree(next((elsewhere / "hvt_demo").glob("pytorch-*")))
    return place, done.results


def without_torch(place, *arguments):
    command = [
        sys.executable,
        "-c",
        WITHOUT_TORCH,
        *map(str, arguments),
        "--workspace",
        "elsewhere",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CI": ""}
    return subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, check=False
    )


def test_without_pytorch_the_recorded_logits_are_the_reference(place):
    root, results = place
    done = without_torch(root, "validate", "--data", "digits/validation", "--limit", "60", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["backend"] for row in rows][:2] == ["pytorch fp32 (recorded)", "ort fp32"]
    reference, ort = rows[:2]
    assert reference["top1"]["estimate"] == results.rows[0].top1.estimate
    assert reference["latency_ms"] is None
    assert "another machine" in reference["note"]
    assert ort["agreement"]["estimate"] == 100
    assert ort["sqnr_db"] > 100, "what was recorded is not rounded"


def test_images_that_were_not_recorded_are_named(place):
    root, _ = place
    done = without_torch(root, "validate", "--data", "digits/calibration", "--json")
    assert done.returncode == 2
    assert "not among the 60 that were recorded" in done.stderr
    assert "digits/calibration/" in done.stderr


def test_other_weights_make_the_record_stale(place):
    root, _ = place
    manifest = root / "elsewhere" / "hvt_demo" / "manifest.json"
    text = manifest.read_text()
    data = json.loads(text)
    weights = data["artifacts"]["pytorch"]
    weights["files"] = {weights["main"]: "0" * 64}
    manifest.write_text(json.dumps(data))
    done = without_torch(root, "validate", "--data", "digits/validation", "--limit", "60")
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
