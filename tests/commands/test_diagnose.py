"""`diagnose` through its command line: sound graphs, a planted fault, its evidence, and the replay
of that.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from command_line import run
from onnx import numpy_helper
from PIL import Image

from hvt_deploy.commands.diagnose import diagnose
from hvt_deploy.commands.quantize import quantize
from hvt_deploy.core.run_config import with_flags
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.graph.quantization import contest
from hvt_deploy.graph.quantization.candidates import Candidate
from hvt_deploy.graph.quantization.int8_calibration import read_int8_calibration


@pytest.fixture(scope="module")
def place(tmp_path_factory, exported):
    place = tmp_path_factory.mktemp("place")
    exported(place / "artifacts", "hvt_demo")
    return place


@pytest.fixture(scope="module")
def planted(place):
    """A file whose blocks.3.mlp.fc1 has one wrong weight."""
    fp32 = json.loads((place / "artifacts/hvt_demo/manifest.json").read_text())["artifacts"]["fp32"]
    model = onnx.load(place / "artifacts/hvt_demo" / fp32["folder"] / fp32["main"])
    node = next(n for n in model.graph.node if n.name.startswith("blocks.3.mlp.fc1/"))
    tensor = next(t for t in model.graph.initializer if t.name in node.input)
    values = numpy_helper.to_array(tensor).copy()
    values[7, 5] = -values[7, 5] + 0.2
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, place / "mine.onnx")
    return place / "mine.onnx"


def test_a_sound_export_follows_pytorch(place):
    done = run("diagnose", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "ort fp32 matches pytorch" in done.stdout
    assert "noise is used" in done.stderr
    assert not (place / "diagnosis").exists()


def test_a_planted_fault_is_named_and_its_evidence_replayed(place, planted):
    done = run("diagnose", "--graph", "mine.onnx", cwd=place)
    assert done.returncode == 1, done.stderr
    assert "mine diverges from pytorch fp32 at blocks.3.mlp.fc1" in done.stdout
    assert "hvt-deploy diagnose --replay diagnosis/hvt_demo.mine" in done.stdout
    evidence = place / "diagnosis/hvt_demo.mine"
    part = onnx.load(evidence / "part.onnx")
    assert {n.name.rpartition("/")[0] for n in part.graph.node} == {"blocks.3.mlp.fc1"}
    with np.load(evidence / "input.npz") as inputs:
        assert inputs.files == [value.name for value in part.graph.input]

    replayed = run("diagnose", "--replay", evidence, "--json", cwd=place)
    assert replayed.returncode == 1, replayed.stderr
    record = json.loads(replayed.stdout)
    assert record["fault"]["module"]["path"] == "blocks.3.mlp.fc1"
    assert record["local_error"] == pytest.approx(
        record["fault"]["module"]["local_error"], rel=1e-3
    )


@pytest.mark.parametrize(
    "arguments",
    [("--graph", "int9"), ("--graph", "gone.onnx"), ("--replay", "nowhere"), ("--data", "nowhere")],
)
def test_bad_input_is_one_message(place, arguments):
    done = run("diagnose", *arguments, cwd=place)
    assert done.returncode == 2, done.stderr
    assert arguments[1] in done.stderr
    assert "Traceback" not in done.stderr


def choose_smoothed(_, infer, judge):
    smoothed = Candidate("max", smoothed=True)
    judge.judge(smoothed, infer(smoothed), 2)
    return smoothed


def test_smoothed_normalizations_are_no_fault(place, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(8):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(
            tmp_path / f"images/{i}.png"
        )
    shutil.copytree(place / "artifacts", tmp_path / "artifacts")
    folder = ModelFolder(tmp_path / "artifacts/hvt_demo")
    flags = {"calibration.folder": str(tmp_path / "images"), "quantization.calibrator": "max"}
    config = with_flags(folder.read().config, flags)
    monkeypatch.setattr(contest, "choose_candidate", choose_smoothed)
    quantize(folder, config, "int8-fp32", SilentUi())
    stored = folder.open_artifact(folder.read(), "int8-calibration")
    assert len(read_int8_calibration(stored.parent).smoothing) > 5

    compared = (folder, config, "int8-fp32", None, "cpu", tmp_path / "diagnosis", SilentUi())
    (found,) = diagnose(*compared).graphs
    assert found.jump is None
    assert len(found.modules) > 60
    monkeypatch.setattr("hvt_deploy.commands.diagnose.smooth", lambda model, _: model)
    (unsmoothed,) = diagnose(*compared).graphs
    assert "norm" in unsmoothed.jump.path, "this is what it would look like"
