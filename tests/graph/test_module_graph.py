"""Which tensor is a module's output, and what a part of a graph takes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.tensors import Signature
from hvt_deploy.graph.module_graph import ModuleGraph, read_module_path
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.ort import OrtBackend
from hvt_deploy.runtime.variant import Variant

WEIGHT = np.arange(9, dtype=np.float32).reshape(3, 3)


@pytest.fixture
def path(tmp_path):
    """Two blocks, the second a residual one, a quantizer that belongs to nobody, and a head."""
    nodes = [
        helper.make_node("MatMul", ["images", "w"], ["a"], "blocks.0.fc/MatMul"),
        helper.make_node("Relu", ["a"], ["b"], "blocks.0.act/Relu"),
        helper.make_node("QuantizeLinear", ["b", "scale", "zero"], ["q"], "b_QuantizeLinear"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], "b_DequantizeLinear"),
        helper.make_node("Split", ["d"], ["s0", "s1"], "model/Split", axis=2),
        helper.make_node("Concat", ["s1", "s0"], ["c"], "blocks.1.mix/Concat", axis=2),
        helper.make_node("Add", ["c", "d"], ["e"], "blocks.1/Add"),
        helper.make_node(
            "ReduceMean", ["e"], ["logits"], "head/ReduceMean", axes=[1, 2], keepdims=0
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 4, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(WEIGHT, "w"),
            numpy_helper.from_array(np.float32(0.5), "scale"),
            numpy_helper.from_array(np.int8(0), "zero"),
        ],
    )
    file = tmp_path / "g.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file
    )
    return file


def test_a_module_gives_what_others_take_from_it(path):
    outputs = ModuleGraph(path).outputs
    assert outputs == {
        "blocks.0.fc": "a",
        "blocks.0.act": "b",
        "blocks.0": "b",
        "blocks.1.mix": "c",
        "blocks.1": "e",
        "blocks": "e",
        "head": "logits",
        "model": "logits",
    }
    assert list(outputs)[-1] == "model"


def test_a_part_is_as_small_as_what_is_given_allows(path):
    graph = ModuleGraph(path)
    assert [read_module_path(n.name) for n in graph.nodes_between({"b"}, ["c"])] == [
        "model",
        "model",
        "model",
        "blocks.1.mix",
    ]
    part = graph.cut({"b", "c"}, ["e"])
    assert sorted(value.name for value in part.graph.input) == ["b", "c"]
    assert {tensor.name for tensor in part.graph.initializer} == {"scale", "zero"}
    onnx.checker.check_model(part)
    session = onnxruntime.InferenceSession(
        part.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    b, c = np.full((1, 3, 4, 3), 0.6, np.float32), np.ones((1, 3, 4, 3), np.float32)
    np.testing.assert_array_equal(session.run(["e"], {"b": b, "c": c})[0], 1.5 * c)


def test_taps_are_the_tensors_of_the_graph_however_many_there_are(path, monkeypatch):
    monkeypatch.setattr("hvt_deploy.runtime.ort.TAPS_AT_ONCE", 2)
    signature = Signature((4, 3), 3)
    backend = OrtBackend(BackendRequest(Variant("ort", "cpu", "fp32"), path, "m", signature, 1))
    images = np.random.default_rng(0).standard_normal((2, 3, 4, 3)).astype(np.float32)
    taps = dict(backend.taps(images, ["blocks.0.fc", "nowhere", "blocks.0", "blocks.1", "model"]))
    assert list(taps) == ["blocks.0.fc", "blocks.0", "blocks.1", "model"]
    np.testing.assert_allclose(taps["blocks.0.fc"], images @ WEIGHT, rtol=1e-5)
    np.testing.assert_allclose(taps["blocks.0"], np.maximum(images @ WEIGHT, 0), rtol=1e-5)
    np.testing.assert_array_equal(taps["model"], backend.infer(images))


def test_what_is_no_onnx_file_is_bad_input(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"\xff\xff\xff")
    with pytest.raises(BadInput, match=r"x\.onnx"):
        ModuleGraph(tmp_path / "x.onnx")
    with pytest.raises(BadInput, match=r"y\.onnx"):
        ModuleGraph(tmp_path / "y.onnx")
