"""`export` with external weights, as for the largest models; small ones stay one
file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from hvt_deploy.commands import graph_export as step
from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.export import export
from hvt_deploy.core.errors import BadInput, CheckFailed, ToolFailure
from hvt_deploy.core.tensors import Signature
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.evaluation import export_parity
from hvt_deploy.graph import storage
from hvt_deploy.graph.torch_export import export_onnx
from hvt_deploy.models import create_model, to_deployed
from hvt_deploy.models.weights.load import seed_random_weights
from hvt_deploy.runtime import inference_job


def config(name, **export):
    config = config_of(name)
    return replace(config, export=replace(config.export, weights="random", **export))


@pytest.fixture
def in_children(monkeypatch):
    """Parity is proven in processes of their own, as a user's export does it."""
    monkeypatch.setattr(export_parity, "cpu_count", lambda: 1)
    monkeypatch.setattr(export_parity, "infer_in_child", inference_job.infer_in_child)


@pytest.fixture(scope="module")
def model():
    """The reference form with the random weights of `config`."""
    model = create_model("fdvit_demo")
    seed_random_weights(model, config("fdvit_demo").export.seed)
    return model


@pytest.fixture(scope="module")
def graph(model):
    """The exporter's result."""
    signature = Signature(model.hvt_spec.image_size, model.num_classes)
    return export_onnx(to_deployed(model), signature, config("fdvit_demo").export.opset)


@pytest.fixture
def traced(graph, monkeypatch):
    """The exporter's part, which takes longest, is done."""
    monkeypatch.setattr(step, "export_onnx", lambda *_: graph)


def test_weights_beside_the_graph_are_proven_stored_and_named_by_the_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "EXTERNAL_ABOVE_BYTES", 1000)
    monkeypatch.setattr("hvt_deploy.graph.large_weights.LARGE_BYTES", 10_000)
    monkeypatch.setattr("hvt_deploy.graph.torch_export.LARGE_BYTES", 10_000)
    folder = ModelFolder(tmp_path / "m")
    hashes = []
    for seed in (1, 2):
        done = export(folder, config("hvt_demo", seed=seed), None, SilentUi())
        assert done.parity.same_argmax
        assert done.parity.relative_to_largest <= export_parity.FP32_PARITY
        artifact = folder.read().artifacts["fp32"]
        assert set(artifact.files) == {"m.fp32.onnx", "m.fp32.onnx.data"}
        data = done.path.with_name("m.fp32.onnx.data")
        assert data.stat().st_size > done.path.stat().st_size
        hashes.append(artifact.sha256)
    assert hashes[0] != hashes[1]


def test_a_small_model_is_one_file(tmp_path, exported):
    folder = exported(tmp_path, "fdvit_demo")
    assert set(folder.read().artifacts["fp32"].files) == {"fdvit_demo.fp32.onnx"}


def test_what_became_of_each_key_of_a_checkpoint_is_kept_beside_the_weights(
    tmp_path, model, traced
):
    state = model.state_dict() | {"decoders.0.weight": torch.zeros(2)}
    file = tmp_path / "trained.pth"
    torch.save({"state_dict": state}, file)
    # onnxsim has no wheels for Python 3.10; elsewhere FDViT goes through it here.
    simplifier = "onnxslim" if sys.version_info < (3, 11) else "onnxsim"
    config = config_of("fdvit_demo")
    chosen = replace(config.export, weights=str(file), simplifier=simplifier)
    folder = ModelFolder(tmp_path / "m")
    done = export(folder, replace(config, export=chosen), None, SilentUi())
    assert done.parity.relative_to_largest <= export_parity.FP32_PARITY
    kept = folder.file(folder.read().artifacts["pytorch"]).with_name("keys.json")
    meanings = json.loads(kept.read_text(encoding="utf-8"))
    assert list(meanings) == list(state)
    assert meanings["decoders.0.weight"] == "dropped: of use in training only"
    assert meanings["head.weight"] == "loaded"


def test_a_graph_that_differs_from_pytorch_is_refused_and_nothing_is_committed(
    tmp_path, monkeypatch, traced, in_children
):
    monkeypatch.setattr(export_parity, "FP32_PARITY", 0.0)
    folder = ModelFolder(tmp_path / "m")
    with pytest.raises(CheckFailed, match="differs from PyTorch on noise, batch 1"):
        export(folder, config("fdvit_demo"), None, SilentUi())
    assert not folder.exists()


def test_what_goes_wrong_in_a_child_is_told_as_if_it_had_gone_wrong_here(
    tmp_path, monkeypatch, traced, in_children
):
    monkeypatch.setattr(step, "save_onnx", lambda _, path: path.write_bytes(b"no model"))
    with pytest.raises(BadInput, match="not a valid ONNX file"):
        export(ModelFolder(tmp_path / "m"), config("fdvit_demo"), None, SilentUi())


def test_a_child_that_dies_says_so(tmp_path, monkeypatch, traced, in_children):
    monkeypatch.setattr(inference_job, "INFERENCE_MODULE", "hvt_deploy.no_such_module")
    with pytest.raises(ToolFailure, match="No module named"):
        export(ModelFolder(tmp_path / "m"), config("fdvit_demo"), None, SilentUi())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["faster_vit_5_224", "faster_vit_6_224"])
def test_the_largest_models_export(tmp_path, name):
    command = [
        sys.executable,
        "-m",
        "hvt_deploy",
        "export",
        name,
        "--weights",
        "random",
        "--opset",
        "17",
        "--json",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "CI": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["parity"]["relative_to_largest"] <= export_parity.FP32_PARITY
    assert said["parity"]["same_argmax"]
