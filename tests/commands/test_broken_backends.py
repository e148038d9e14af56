"""A backend whose logits are not finite fails a validation that has no gate."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from command_line import run
from onnx import numpy_helper

from hvt_deploy.core.manifest import GraphFacts
from hvt_deploy.data.digits import write_digits
from hvt_deploy.graph.storage import load_onnx, save_onnx


@pytest.fixture(scope="module")
def place(tmp_path_factory, exported):
    """Digits, and a demo model whose FP16 graph gives NaN for its last class."""
    place = tmp_path_factory.mktemp("broken")
    write_digits(place / "digits")
    folder = exported(place / "artifacts", "hvt_demo")
    manifest = folder.read()
    graph = load_onnx(folder.open_artifact(manifest, "fp32"))
    poison(graph)
    with folder.staging() as staged:
        save_onnx(graph, staged / "hvt_demo.fp16.onnx")
        facts = GraphFacts("fp16", 17, len(graph.graph.node))
        folder.add(manifest, "fp16", staged, "hvt_demo.fp16.onnx", "again", facts=facts)
    return place


def poison(graph: onnx.ModelProto) -> None:
    (bias,) = (t for t in graph.graph.initializer if t.name == "head.bias")
    values = numpy_helper.to_array(bias).copy()
    values[-1] = np.nan
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))


def test_validation_ends_with_1_and_says_which(place):
    wanted = ("--data", "digits/validation", "--limit", "20", "--json")
    done = run("validate", *wanted, "--backends", "ort fp16", cwd=place)
    assert done.returncode == 1, done.stderr
    record = json.loads(done.stdout)
    assert record["gates"] == []
    assert record["errors"] == ["ort fp16 gave logits that are not finite for 20 of 20 images."]
    (fidelity,) = (row["fidelity"] for row in record["rows"] if row["backend"] == "ort fp16")
    assert fidelity["max_abs"] is None
    assert run("validate", *wanted, "--backends", "ort fp32", cwd=place).returncode == 0
