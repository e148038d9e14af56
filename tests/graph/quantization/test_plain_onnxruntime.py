"""INT8 files in somebody else's ONNX Runtime: a session with default options computes what the
graph says, with none of the options that the product sets.
"""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper, parser
from running import run, sqnr

from hvt_deploy.core.manifest import GraphRecipe
from hvt_deploy.core.run_config import Int8Roles, QuantizationConfig
from hvt_deploy.graph.analysis.roles import PRODUCT_ROLES
from hvt_deploy.graph.quantization import quantized_graph
from hvt_deploy.graph.quantization.bias_separation import INT32_BIASES, BiasLimits
from hvt_deploy.graph.quantization.int8_calibration import Int8Calibration
from hvt_deploy.graph.quantization.quantized_graph import make_quantized_graph
from hvt_deploy.graph.quantization.ranges import collect_ranges
from hvt_deploy.graph.storage import load_onnx, save_onnx
from hvt_deploy.models.registry import get_spec
from hvt_deploy.runtime.tensorrt.build import build_engine
from hvt_deploy.runtime.tensorrt.plan import BuildPlan, Profile

KEYS = ("int8", "int8-fp32", "int8-cpu")


def quantize(path, images, key):
    """The INT8 graph of all roles for classic TensorRT, or the CPU variant."""
    ranges = collect_ranges(path, [images], threads=1)
    quantization = QuantizationConfig(Int8Roles(*[PRODUCT_ROLES] * 3))
    target = None if key == "int8-cpu" else "tensorrt"
    recipe = GraphRecipe(measured_ranges=True, quantization=quantization, target=target)
    return make_quantized_graph(path, key, recipe, ranges, Int8Calibration(ranges)).model


def assert_right_in_plain_sessions(path, images, key):
    made, expected = quantize(path, images, key), run(load_onnx(path), images)
    as_written_db = sqnr(expected, run(made, images, optimize=False))
    assert as_written_db > 20
    assert sqnr(expected, run(made, images)) > as_written_db - 3


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("model", ["fdvit_demo", "faster_vit_demo", "dfvt_demo", "hvt_demo"])
def test_the_files_of_every_family_are_right(model, key, exported_graph):
    size = get_spec(model).image_size
    images = np.random.default_rng(0).standard_normal((4, 3, *size), dtype=np.float32)
    assert_right_in_plain_sessions(exported_graph(model), images, key)


@pytest.fixture(scope="module", params=[1e-3, 1e-12], ids=["biased", "dead"])
def planted(request, tmp_path_factory):
    """Convolutions that are quantized one behind the other; a channel of the first has weights
    that are small next to its bias, as those that BatchNorm switched off.
    """
    rng = np.random.default_rng(0)
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]> g
        (float[N, 3, 8, 8] images) => (float[N, 4] logits)
        <float[4] b = {1.5, 2.5, -1, 0.5}, float[4] c = {0.5, -0.25, 1, 0}> {
        x = Conv (images, w, b) y = Conv (x, v, c) mean = GlobalAveragePool (y)
        logits = Flatten (mean) }"""
    )
    for node in model.graph.node:
        node.name = f"blocks.0.{node.output[0]}/{node.op_type}"
    for name, shape in (("w", (4, 3, 1, 1)), ("v", (4, 4, 1, 1))):
        weight = rng.uniform(-1, 1, shape).astype(np.float32)
        weight[1] *= request.param if name == "w" else 1
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    path = tmp_path_factory.mktemp("planted") / "m.onnx"
    save_onnx(model, path)
    return path, rng.uniform(-1, 1, (8, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("key", KEYS)
def test_biases_that_no_int32_or_fp16_holds_are_right(planted, key):
    assert_right_in_plain_sessions(*planted, key)


def test_biases_that_fit_stay_where_they_are(planted):
    made = quantize(*planted, "int8-fp32")
    biased = {len(node.input) for node in made.graph.node if node.op_type == "Conv"}
    assert 3 in biased


@pytest.mark.slow
def test_an_engine_needs_no_more_kernels(exported_graph, monkeypatch, tmp_path):
    """Of ten convolutions, whose biases are all taken out."""
    path = exported_graph("dfvt_demo")
    size = get_spec("dfvt_demo").image_size
    images = np.random.default_rng(0).standard_normal((4, 3, *size), dtype=np.float32)
    separate, counts = quantized_graph.separate_biases, []
    for limits in (INT32_BIASES, BiasLimits(0, 0, np.inf)):
        monkeypatch.setattr(
            quantized_graph,
            "separate_biases",
            lambda model, ranges, _, limits=limits: separate(model, ranges, limits),
        )
        made = quantize(path, images, "int8")
        counts.append(sum(node.op_type == "Add" for node in made.graph.node))
        save_onnx(made, tmp_path / "m.onnx")
        profile = Profile(1, 8, 32)
        plan = BuildPlan(
            tmp_path / "m.onnx", tmp_path / "m.engine", "tensorrt_rtx", ("8.6",), (profile,), 512
        )
        counts.append(sum(layer.is_kernel for layer in build_engine(plan).layers))
    adds, kernels, more_adds, kernels_then = counts
    assert more_adds > adds + 5
    assert kernels_then <= kernels
