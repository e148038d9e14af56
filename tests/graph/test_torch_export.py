"""Export, simplification, names, opsets and the contract, on the demo's HVT through real ONNX
Runtime.
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import parser
from torch import nn

from hvt_deploy.core.errors import BadInput, CheckFailed, ToolFailure
from hvt_deploy.core.tensors import Signature
from hvt_deploy.graph.contract import NAMED_OPS, check_contract, inspect_contract
from hvt_deploy.graph.opset import SUPPORTED_OPSETS, convert_opset, read_opset
from hvt_deploy.graph.simplify import simplify
from hvt_deploy.graph.storage import load_onnx, save_onnx
from hvt_deploy.graph.torch_export import export_onnx
from hvt_deploy.models import create_model, to_deployed
from hvt_deploy.models.weights.load import seed_random_weights

# onnxsim has no wheels for Python 3.10.
SIMPLIFIERS = ("onnxslim",) if sys.version_info < (3, 11) else ("onnxsim", "onnxslim")


@pytest.fixture(scope="module")
def reference():
    model = create_model("hvt_demo")
    seed_random_weights(model, 3)
    return model


@pytest.fixture(scope="module")
def signature(reference):
    return Signature(reference.hvt_spec.image_size, reference.num_classes)


@pytest.fixture(scope="module")
def exported(reference, signature):
    """The raw exports by the opset the exporter wrote."""
    deployed = to_deployed(reference)
    return {opset: export_onnx(deployed, signature, opset) for opset in (17, 20, 22)}


def run(model, images):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"images": images})[0]


def layer_norms(reference):
    return sum(isinstance(module, nn.LayerNorm) for module in to_deployed(reference).modules())


def noise(reference, batch):
    return np.random.default_rng(batch).standard_normal(
        (batch, 3, *reference.hvt_spec.image_size), dtype=np.float32
    )


@pytest.mark.parametrize("tool", [*SIMPLIFIERS, "none"])
def test_every_batch_size_gives_pytorchs_logits(exported, reference, signature, tool):
    graph = convert_opset(simplify(exported[17], tool), 17)
    check_contract(graph, opset=17, signature=signature, layer_norms=layer_norms(reference))
    for batch in (1, 2, 3, 5):
        images = noise(reference, batch)
        expected = reference(torch.from_numpy(images)).detach().numpy()
        logits = run(graph, images)
        assert np.abs(logits - expected).max() <= 2e-5 * np.abs(expected).max()
        assert len(np.unique(logits, axis=0)) == batch


@pytest.mark.parametrize("opset", SUPPORTED_OPSETS)
def test_the_file_has_exactly_the_opset_asked_for(exported, reference, signature, opset, tmp_path):
    native = max(o for o in exported if o <= max(opset, 17))
    graph = convert_opset(simplify(exported[native], "onnxslim"), opset)
    save_onnx(graph, tmp_path / "m.onnx")
    loaded = load_onnx(tmp_path / "m.onnx")
    assert read_opset(loaded) == opset
    check_contract(loaded, opset=opset, signature=signature, layer_norms=layer_norms(reference))
    for batch in (1, 2, 3, 5):
        images = noise(reference, batch)
        expected = reference(torch.from_numpy(images)).detach().numpy()
        assert np.abs(run(loaded, images) - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("tool", SIMPLIFIERS)
def test_nodes_keep_their_module_paths(exported, reference, tool):
    modules = {name for name, _ in to_deployed(reference).named_modules()}
    graph = simplify(exported[17], tool).graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    for node in graph.node:
        if node.op_type in NAMED_OPS:
            assert node.name.rpartition("/")[0] in modules
    by_path = {
        node.name.rpartition("/")[0] for node in graph.node if node.op_type in {"MatMul", "Gemm"}
    }
    linears = {n for n, m in to_deployed(reference).named_modules() if isinstance(m, nn.Linear)}
    assert linears <= by_path


def test_passes_leave_their_argument_as_it_was(exported):
    before = exported[17].SerializeToString(deterministic=True)
    convert_opset(simplify(exported[17], "onnxslim"), 17)
    assert exported[17].SerializeToString(deterministic=True) == before


def test_a_fixed_batch_is_declared_in_the_graph(reference):
    signature = Signature(reference.hvt_spec.image_size, reference.num_classes, batch=3)
    graph = convert_opset(
        simplify(export_onnx(to_deployed(reference), signature, 17), "onnxslim"), 17
    )
    check_contract(graph, opset=17, signature=signature, layer_norms=layer_norms(reference))
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3


class ByLength(nn.Module):
    """Of whose images the number is taken as Python does: PyTorch's first way bakes it in."""

    def forward(self, images):
        return images.reshape(len(images), -1).mean(1, keepdim=True)


class ByImage(nn.Module):
    def forward(self, images):
        return torch.stack([image.mean((1, 2)) for image in images])


def test_the_number_of_images_is_not_baked_in_by_len():
    graph = export_onnx(ByLength(), Signature((4, 6), 1), 17)
    (dims,) = [value.type.tensor_type.shape.dim for value in graph.graph.input]
    assert dims[0].dim_param == "batch"
    for batch in (1, 3):
        images = np.random.default_rng(0).random((batch, 3, 4, 6), dtype=np.float32)
        np.testing.assert_allclose(run(graph, images)[:, 0], images.mean((1, 2, 3)), rtol=1e-6)


def test_code_that_makes_a_constant_of_the_batch_size_is_told_so():
    with pytest.raises(ToolFailure, match="makes a constant of the batch size") as caught:
        export_onnx(ByImage(), Signature((4, 6), 3), 17)
    assert "--batch N" in caught.value.hint
    graph = export_onnx(ByImage(), Signature((4, 6), 3, batch=2), 17)
    images = np.random.default_rng(0).random((2, 3, 4, 6), dtype=np.float32)
    np.testing.assert_allclose(run(graph, images), images.mean((2, 3)), rtol=1e-6)


def test_a_module_that_cannot_be_exported_says_why(signature):
    class Refuses(nn.Module):
        def forward(self, images):
            if images.sum() > 0:
                return images
            return -images

    with pytest.raises(ToolFailure, match="exporter failed"):
        export_onnx(Refuses(), signature, 17)


def test_an_opset_out_of_range_lists_what_is_supported(exported):
    with pytest.raises(BadInput) as caught:
        convert_opset(exported[17], 16)
    assert "17, 18, 19, 20, 21, 22" in caught.value.hint


def test_an_operator_without_an_equal_names_its_node():
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 18]>
        g (float[N] x) => (float[N] y) { [there] y = Mish (x) }"""
    )
    with pytest.raises(ToolFailure, match=r"there.*Mish"):
        convert_opset(model, 17)


RESIZE = """<ir_version: 9, opset_import: ["" : 18]>
    g (float[1, 1, 3, 4] x) => (float[1, 1, M, K] y) <float[4] scales = {1, 1, 2, 2}> {
    [up] y = Resize <mode = "linear", %s> (x, , scales) }"""


def test_attributes_that_say_what_older_opsets_do_are_left_out():
    model = parser.parse_model(RESIZE % 'antialias = 0, keep_aspect_ratio_policy = "stretch"')
    x = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    found = []
    for graph in (model, convert_opset(model, 17), convert_opset(convert_opset(model, 17), 20)):
        onnx.checker.check_model(graph, full_check=True)
        session = onnxruntime.InferenceSession(
            graph.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        found.append(session.run(None, {"x": x})[0])
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    with pytest.raises(ToolFailure, match=r"up.*Resize"):
        convert_opset(parser.parse_model(RESIZE % "antialias = 1"), 17)


def test_reductions_survive_both_directions():
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 18]>
        g (float[N, 4] x) => (float[N] y) <int64[1] axes = {1}>
        { y = ReduceMean <keepdims = 0> (x, axes) }"""
    )
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    for opset in (17, 19):
        converted = convert_opset(convert_opset(model, 17), opset)
        session = onnxruntime.InferenceSession(
            converted.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        np.testing.assert_allclose(session.run(None, {"x": x})[0], x.mean(axis=1))


def test_the_contract_names_every_breach(reference, signature, exported):
    graph = onnx.ModelProto()
    graph.CopyFrom(convert_opset(simplify(exported[17], "onnxslim"), 17))
    graph.graph.node.append(onnx.helper.make_node("Shape", ["images"], ["s"], name="here"))
    next(n for n in graph.graph.node if n.op_type == "Softmax").name = "softmax"
    report = inspect_contract(graph, opset=18, signature=signature, layer_norms=99, strict=True)
    text = "; ".join(report.breaches)
    assert all(
        part in text
        for part in (
            "1 Shape",
            "opset 17 instead of 18",
            "for 99 LayerNorms",
            "softmax has no module",
        )
    )
    with pytest.raises(CheckFailed):
        check_contract(graph, opset=18, signature=signature, layer_norms=99)


def test_a_network_of_others_may_read_the_shape_of_its_images(exported, signature):
    graph = onnx.ModelProto()
    graph.CopyFrom(exported[17])
    for source, number in (("images", 0), (graph.graph.node[0].output[0], 1)):
        graph.graph.node.append(onnx.helper.make_node("Shape", [source], [f"s{number}"]))
        report = inspect_contract(graph, opset=18, signature=signature, layer_norms=0)
        assert ("1 Shape" in "; ".join(report.breaches)) == bool(number)


def test_large_models_keep_their_weights_beside_the_file(exported, reference, tmp_path):
    graph = simplify(exported[17], "onnxslim")
    save_onnx(graph, tmp_path / "m.onnx", external_above_bytes=100_000)
    assert (tmp_path / "m.onnx.data").stat().st_size > (tmp_path / "m.onnx").stat().st_size
    images = noise(reference, 2)
    np.testing.assert_array_equal(run(load_onnx(tmp_path / "m.onnx"), images), run(graph, images))


@pytest.mark.parametrize("content", [b"not onnx at all", None])
def test_a_damaged_file_is_bad_input(exported, tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content if content is not None else exported[17].SerializeToString()[:50_000])
    with pytest.raises(BadInput, match="truncated"):
        load_onnx(path)
