"""FP16 and INT8 made from an outline, with the weights in the file or in another: bit for bit those
made from the whole model.
"""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper
from running import sqnr

from hvt_deploy.commands.quantized_graphs import GRAPHS_OF
from hvt_deploy.core.manifest import GraphRecipe
from hvt_deploy.core.run_config import Int8Roles, QuantizationConfig
from hvt_deploy.graph import large_weights
from hvt_deploy.graph.analysis.roles import PRODUCT_ROLES
from hvt_deploy.graph.quantization import quantized_graph
from hvt_deploy.graph.quantization.int8_calibration import Int8Calibration
from hvt_deploy.graph.quantization.logits_judge import run_logits
from hvt_deploy.graph.quantization.outline import make_outline
from hvt_deploy.graph.quantization.qdq import select_nodes
from hvt_deploy.graph.quantization.quantized_graph import Judge, make_quantized_graph
from hvt_deploy.graph.quantization.ranges import collect_ranges
from hvt_deploy.graph.storage import load_onnx, save_onnx


@pytest.fixture(scope="module")
def files(exported, tmp_path_factory):
    """The same graph with internal and with external weights, and their ranges."""
    folder = exported(tmp_path_factory.mktemp("m"), "hvt_demo", {"export.weights": "random"})
    model = load_onnx(folder.file(folder.read().artifacts["fp32"]))
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1:  # smaller than FP16's smallest number
            values = numpy_helper.to_array(tensor).copy()
            values.flat[0] = 1e-9
            if "patch_embed" in tensor.name:  # and scales that FP16 rounds
                values *= 1e-6
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    inside = tmp_path_factory.mktemp("inside") / "m.onnx"
    save_onnx(model, inside)
    beside = tmp_path_factory.mktemp("beside") / "m.onnx"
    save_onnx(model, beside, external_above_bytes=1)
    assert beside.with_name("m.onnx.data").stat().st_size > 10 * beside.stat().st_size
    images = np.random.default_rng(0).standard_normal((4, 3, 32, 32), np.float32)
    return inside, beside, collect_ranges(inside, [images], 1), collect_ranges(beside, [images], 1)


def test_ranges_do_not_depend_on_where_the_weights_are(files):
    assert files[2] == files[3]


@pytest.mark.parametrize("key", GRAPHS_OF["int8"])
@pytest.mark.parametrize("place", ["inside", "beside"])
def test_graphs_do_not_depend_on_the_outline(files, key, place, monkeypatch, tmp_path):
    inside, beside, ranges, _ = files
    roles = Int8Roles(*[PRODUCT_ROLES] * 3)
    quantization = QuantizationConfig(roles, int8_outputs=("qkv", "fc1"))
    int8 = Int8Calibration(ranges, attention=True)
    target = None if key == "int8-cpu" else "rtx"
    recipe = GraphRecipe(measured_ranges=True, quantization=quantization, target=target)
    made = make_quantized_graph(inside, key, recipe, ranges, int8)
    expected, kept = made.model, made.kept_fp32
    monkeypatch.setattr(large_weights, "LARGE_BYTES", 2**12)
    path = inside if place == "inside" else beside
    made = make_quantized_graph(path, key, recipe, ranges, int8)
    found, also_kept = made.model, made.kept_fp32
    assert [(n.name, n.op_type, *n.input) for n in found.graph.node] == [
        (n.name, n.op_type, *n.input) for n in expected.graph.node
    ]
    assert [value.name for value in found.graph.input] == ["images"]
    assert kept == also_kept
    assert any("_by_channel" in n.name for n in found.graph.node) == (key in ("int8", "int8-fp32"))
    assert any("_raised_" in t.name for t in found.graph.initializer) == (key == "int8")
    wanted = {tensor.name: numpy_helper.to_array(tensor) for tensor in expected.graph.initializer}
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.graph.initializer}
    assert tensors.keys() == wanted.keys()
    for name, values in wanted.items():
        assert tensors[name].dtype == values.dtype, name
        assert np.array_equal(tensors[name], values), name
    save_onnx(found, tmp_path / "m.onnx", external_above_bytes=1)  # and onnx.checker takes it


def test_the_cpu_variant_is_judged_wherever_the_weights_are(files, monkeypatch):
    """By ONNX Runtime's logits; not where the variant's own file would have external weights."""
    inside, beside, ranges, _ = files
    monkeypatch.setattr(large_weights, "LARGE_BYTES", 2**12)
    images = np.random.default_rng(1).standard_normal((4, 3, 32, 32), np.float32)
    quantization = QuantizationConfig(Int8Roles(*[PRODUCT_ROLES] * 3))
    recipe = GraphRecipe(measured_ranges=True, quantization=quantization, target=None)

    def make(path):
        fp32 = load_onnx(path, weights=False)
        reference_NK = run_logits(fp32, [images], 1, path.parent)
        judge = Judge(reference_NK, lambda model: run_logits(model, [images], 1))
        return reference_NK, make_quantized_graph(
            path, "int8-cpu", recipe, ranges, Int8Calibration(ranges), judge
        )

    (expected_NK, expected), (reference_NK, found) = make(inside), make(beside)
    np.testing.assert_array_equal(reference_NK, expected_NK)
    np.testing.assert_array_equal(found.logits_NK, expected.logits_NK)
    np.testing.assert_array_equal(found.numerics_NK, expected.numerics_NK)
    assert sqnr(reference_NK, found.logits_NK) > 10
    monkeypatch.setattr(quantized_graph, "EXTERNAL_ABOVE_BYTES", 2**16)
    assert make(beside)[1].logits_NK is None


def test_an_outline_is_small_and_reads_weights_only_to_find_their_largest(files, monkeypatch):
    monkeypatch.setattr(large_weights, "LARGE_BYTES", 2**12)
    model = load_onnx(files[1], weights=False)
    outlined = make_outline(model, files[1].parent, select_nodes(model, PRODUCT_ROLES))
    assert len(outlined.weights) > 20
    assert outlined.model.ByteSize() < 0.2 * files[0].stat().st_size
