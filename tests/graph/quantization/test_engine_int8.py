"""Where INT8 is placed for an engine, and what TensorRT-RTX makes of it in real builds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from running import run, sqnr

from hvt_deploy.commands.config import config_of
from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.core.run_config import Int8Roles, QuantizationConfig
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.data.calibration_set import choose_calibration
from hvt_deploy.data.digits import write_digits
from hvt_deploy.data.images import load_batches
from hvt_deploy.graph.analysis.engine_cost import EngineCost
from hvt_deploy.graph.analysis.roles import LINEAR_ROLES
from hvt_deploy.graph.opset import convert_opset
from hvt_deploy.graph.quantization.calibration import (
    CalibrationImages,
    Int8Settings,
    calibrate_int8,
)
from hvt_deploy.graph.quantization.engine_int8 import (
    EnginePlacement,
    find_attention,
    find_engine_placement,
    find_int8_attention,
    quantize_for_engine,
)
from hvt_deploy.graph.quantization.fp16 import to_fp16
from hvt_deploy.graph.quantization.int8_calibration import read_int8_calibration
from hvt_deploy.graph.quantization.qdq import quantize_int8
from hvt_deploy.graph.quantization.ranges import Ranges, collect_ranges
from hvt_deploy.graph.storage import load_onnx, save_onnx
from hvt_deploy.models.registry import get_spec
from hvt_deploy.runtime.tensorrt.build import build_engine
from hvt_deploy.runtime.tensorrt.cost import find_cost
from hvt_deploy.runtime.tensorrt.plan import BuildPlan, Profile

# softmax(q · k / 4 + bias) · v for heads of HEAD channels and KEYS keys.
ATTENTION = """<ir_version: 9, opset_import: ["" : 19]>
g (float[N, 2, KEYS, HEAD] q, float[N, 2, HEAD, KEYS] k, float[N, 2, KEYS, HEAD] v)
  => (float[N, 2, KEYS, HEAD] out)
<float four = {4.0}, float[1] bias = {0.5}> {
[score] s = MatMul (q, k)  t = Div (s, four)  u = Add (t, bias)
p = Softmax <axis = -1> (u)  [value] out = MatMul (p, v) }"""


def parse_attention(head: int, keys: int, text: str = ATTENTION) -> onnx.ModelProto:
    model = parser.parse_model(text.replace("HEAD", str(head)).replace("KEYS", str(keys)))
    for value in list(model.graph.input):  # products of computed tensors
        model.graph.node.insert(
            0, onnx.helper.make_node("Relu", [value.name], [f"{value.name}_"], f"{value.name}/Relu")
        )
        for node in list(model.graph.node)[1:]:
            for i, name in enumerate(node.input):
                if name == value.name and node.op_type != "Relu":
                    node.input[i] = f"{value.name}_"
    return model


@pytest.fixture(scope="module")
def hvt(exported_graph) -> tuple[onnx.ModelProto, Ranges, np.ndarray]:
    path = exported_graph("hvt_demo")
    images = np.random.default_rng(0).standard_normal((8, 3, 32, 32), dtype=np.float32)
    return convert_opset(load_onnx(path), 19), collect_ranges(path, [images], 1), images


def test_a_linear_that_writes_int8_keeps_its_integers_and_its_accuracy(hvt):
    model, ranges, images = hvt
    plain = quantize_int8(model, ranges, LINEAR_ROLES)
    made = quantize_for_engine(model, ranges, EnginePlacement(LINEAR_ROLES, LINEAR_ROLES))

    def integers(graph: onnx.ModelProto) -> dict[str, bytes]:
        return {
            t.name: numpy_helper.to_array(t).tobytes()
            for t in graph.graph.initializer
            if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 2
        }

    assert integers(made) == integers(plain)
    producers = {name: node for node in made.graph.node for name in node.output}
    constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    written = [
        node
        for node in made.graph.node
        if node.op_type == "MatMul"
        and node.input[1] in producers
        and producers[node.input[1]].op_type == "DequantizeLinear"
    ]
    assert len(written) == len(integers(made)) == 24
    readers = {name: n for n in made.graph.node for name in n.input}
    for node in written:
        assert constants[producers[node.input[1]].input[1]].shape == ()
        assert readers[node.output[0]].op_type == "QuantizeLinear"
    expected = run(model, images)
    assert sqnr(expected, run(made, images)) > sqnr(expected, run(plain, images)) - 3


def test_the_result_of_a_linear_is_not_clipped(hvt):
    model, ranges, images = hvt
    made = quantize_for_engine(model, ranges, EnginePlacement(("fc1",), ("fc1",)))
    first = next(n for n in made.graph.node if n.input[0].endswith("_product"))
    del made.graph.output[:]
    made.graph.output.append(onnx.helper.make_empty_tensor_value_info(first.output[0]))
    found = run(made, images, optimize=False)
    assert 126 <= np.abs(found.astype(int)).max() <= 127
    # At most a level of many: the largest value, in units of its channel's scale, is level 127.
    assert (np.abs(found.astype(int)) == 127).sum() < 100


def test_in_the_engine_linears_write_int8_and_attention_is_one_kernel(hvt, tmp_path):
    """What the placement is for: fewer bytes and no more kernels than with Q/DQ on inputs alone."""
    model, ranges, _ = hvt
    found = {}
    for name, outputs, attention in (
        ("inputs", (), ()),
        ("all", LINEAR_ROLES, find_int8_attention(model)),
    ):
        graph = quantize_for_engine(
            model, ranges, EnginePlacement(LINEAR_ROLES, outputs, attention)
        )
        save_onnx(to_fp16(graph, ranges).model, tmp_path / f"{name}.onnx")
        plan = BuildPlan(
            tmp_path / f"{name}.onnx",
            tmp_path / f"{name}.engine",
            "tensorrt_rtx",
            ("8.6",),
            (Profile(8, 8, 8),),
            512,
        )
        found[name] = find_cost(plan, 8) if name == "inputs" else build_engine(plan).layers
    before, layers = found["inputs"], [layer for layer in found["all"] if layer.is_kernel]
    products = [layer for layer in layers if layer.type == "gemm" and "MatMul" in layer.name]
    assert len(products) == 24
    for layer in products:
        assert [tensor.dtype for tensor in layer.outputs] == ["Int8"]
    fused = [layer for layer in layers if "_gemm_mha" in layer.name]
    assert len(fused) == 6
    for layer in fused:
        assert {t.dtype for t in layer.inputs[:3]} == {t.dtype for t in layer.outputs} == {"Int8"}
    assert isinstance(before, EngineCost)
    assert len(layers) < before.whole.kernels
    after = sum(t.size_bytes for layer in layers for t in (*layer.inputs, *layer.outputs))
    assert after < 0.8 * before.whole.activation_bytes


@pytest.mark.parametrize(
    ("head", "keys", "found"), [(32, 49, 1), (16, 512, 1), (45, 49, 0), (32, 513, 0)]
)
def test_attention_is_int8_where_tensorrt_has_a_kernel(head, keys, found):
    model = parse_attention(head, keys)
    assert len(find_attention(model)) == 1
    blocks = find_int8_attention(model)
    assert len(blocks) == found
    assert blocks == ("value",) * found


def test_the_attention_of_one_query_is_left_in_fp16():
    """XCiT's class attention: no fused kernel, and Q/DQ would cost kernels of their own."""
    one = ATTENTION.replace("N, 2, KEYS, HEAD] q", "N, 2, 1, HEAD] q")
    model = parse_attention(32, 49, one.replace("N, 2, KEYS, HEAD] out", "N, 2, 1, HEAD] out"))
    assert len(find_attention(model)) == 1
    assert find_int8_attention(model) == ()


def test_a_softmax_with_another_reader_is_no_attention():
    also = ATTENTION.replace(", v) }", ", v)  twice = Relu (p) }")
    assert find_attention(parse_attention(32, 49, also)) == ()
    classes = "g (float[N, 8] x) => (float[N, 8] y) { y = Softmax <axis = -1> (x) }"
    assert (
        find_attention(parser.parse_model(f'<ir_version: 9, opset_import: ["" : 19]> {classes}'))
        == ()
    )


def test_probabilities_are_quantized_by_their_range(hvt):
    """With a scale of 1/127 most probabilities of 64 keys would be level 0 or 1."""
    model, ranges, images = hvt
    attention = find_int8_attention(model)
    made = quantize_for_engine(model, ranges, EnginePlacement(("fc1",), (), attention))
    constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    probabilities = [n.output[0] for n in made.graph.node if n.op_type == "Softmax"]
    scales = {
        n.input[0]: constants[n.input[1]]
        for n in made.graph.node
        if n.op_type == "QuantizeLinear" and n.input[0] in probabilities
    }
    assert [scales[name] for name in probabilities] == [
        np.float32(ranges.largest(name) / 127) for name in probabilities
    ]
    assert min(scales.values()) < 0.8 / 127
    coarse = ranges.clip(dict.fromkeys(probabilities, 1.0))
    plain, without = (
        quantize_for_engine(model, ranges_, EnginePlacement(("fc1",), (), attention))
        for ranges_ in (ranges, coarse)
    )
    expected = run(model, images)
    assert sqnr(expected, run(plain, images)) > sqnr(expected, run(without, images)) + 1


def test_attention_and_the_linear_behind_it_quantize_with_one_scale(hvt):
    """Also where a calibrator clipped what the Linear reads: else an engine quantizes twice."""
    model, ranges, _ = hvt
    read = {n.name: n.input[0] for n in model.graph.node if n.name.endswith("proj/MatMul")}
    clipped = ranges.clip({name: ranges.largest(name) / 2 for name in read.values()})
    placement = EnginePlacement(("proj",), (), find_int8_attention(model))
    made = quantize_for_engine(model, clipped, placement)
    constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    quantizers = {n.input[0]: n for n in made.graph.node if n.op_type == "QuantizeLinear"}
    values = [n.output[0] for n in made.graph.node if n.name in placement.attention]
    assert len(values) == len(read) == 6
    for value, projected in zip(values, read.values(), strict=True):
        scales = [constants[quantizers[name].input[1]] for name in (value, projected)]
        assert scales[0] == scales[1] == np.float32(clipped.largest(projected) / 127)


def test_without_the_ranges_of_channels_there_is_an_error(hvt):
    model, ranges, _ = hvt
    old = replace(ranges, channels={})
    with pytest.raises(ToolFailure, match="no calibrated range"):
        quantize_for_engine(model, old, EnginePlacement(LINEAR_ROLES, LINEAR_ROLES))
    quantize_for_engine(model, old, EnginePlacement(LINEAR_ROLES))


def test_nothing_left_to_quantize_is_bad_input_also_with_attention(hvt):
    model, ranges, _ = hvt
    with pytest.raises(BadInput, match="No node is left"):
        quantize_for_engine(model, ranges, EnginePlacement((), (), find_int8_attention(model)))


def test_convolutions_are_int8_where_they_pay_or_where_there_is_nothing_else(hvt):
    model, quantization = hvt[0], config_of("hvt_demo").quantization
    assert "conv" not in find_engine_placement(model, quantization, "rtx").roles
    assert "conv" in find_engine_placement(model, quantization, "tensorrt").roles
    only_convolutions = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 19]> g (float[N, 1, 4, 4] x) => (float[N, 1, 4, 4] y)
        <float[1, 1, 1, 1] w = {2.0}> { y = Conv (x, w) }"""
    )
    only_convolutions.graph.node[0].name = "layers.0/Conv"
    placement = find_engine_placement(only_convolutions, quantization, "rtx")
    assert placement.roles == quantization.int8_roles.tensorrt
    everything = tuple(f"{block}/{role}" for block in range(6) for role in LINEAR_ROLES[1:])
    left = find_engine_placement(model, replace(quantization, excluded=everything), "rtx")
    assert "conv" not in left.roles, "what a recipe excludes gives way to nothing else"


def test_a_layer_of_zeros_and_tiny_weights_stay_finite(tmp_path: Path):
    """A layer scale of 1e-6 and a channel that is always 0."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 4)).astype(np.float32) * np.array(
        [1e-6, 1, 1e3, 0], np.float32
    )
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 19]> g (float[N, 3, 16] x) => (float[N, 3, 4] y)
        { y = MatMul (x, w) }"""
    )
    model.graph.node[0].name = "blocks.0.mlp.fc1/MatMul"
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    save_onnx(model, tmp_path / "m.onnx")
    x = rng.standard_normal((4, 3, 16)).astype(np.float32)
    ranges = collect_ranges(tmp_path / "m.onnx", [x], 1)
    made = quantize_for_engine(model, ranges, EnginePlacement(("fc1",), ("fc1",)))
    expected, found = run(model, x, "x"), run(made, x, "x")
    for channel in range(3):  # each as accurate as the others
        assert sqnr(expected[..., channel], found[..., channel]) > 25
    assert not found[..., 3].any()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.mark.parametrize(("name", "kept"), [("hvt_demo", False), ("faster_vit_demo", True)])
def test_attention_is_judged_by_the_logits(exported_graph, digits, tmp_path, name, kept):
    """HVT's trained attention loses 2 dB in INT8, FasterViT's nothing."""
    path, spec = exported_graph(name), get_spec(name)
    samples = choose_calibration(digits.calibration, 32, seed=0).samples()
    images = [batch.images_NCHW for batch in load_batches(samples, spec.preprocessing, 16, 1)]
    roles = Int8Roles(LINEAR_ROLES, LINEAR_ROLES, LINEAR_ROLES)
    recipe = QuantizationConfig(roles, LINEAR_ROLES, calibrator="max", recovery=())
    settings = Int8Settings(recipe, "rtx")
    read = CalibrationImages([], images[:1], images[1:])
    ranges = collect_ranges(path, images, 1)
    found = calibrate_int8(path, ranges, settings, read, 1, SilentUi())
    (effect,) = found.effects
    assert (effect.name, effect.kept, found.attention) == ("INT8 attention", kept, kept)
    assert (effect.before_db - effect.after_db > 1.5) != kept
    found.write(tmp_path)
    assert read_int8_calibration(tmp_path).attention == kept
