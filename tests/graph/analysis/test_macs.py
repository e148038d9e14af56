"""MACs of nodes, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from hvt_deploy.core.errors import ToolFailure
from hvt_deploy.graph.analysis.macs import count_macs
from hvt_deploy.graph.storage import load_onnx, save_onnx


def graph(text, **weights):
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 19]>\n{text}')
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in weights.items()
    )
    return model


def zeros(*shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("weight", "attributes", "expected"),
    [
        ((16, 8, 3, 3), "pads=[1,1,1,1]", 16 * 12 * 12 * 8 * 9),
        ((16, 8, 3, 3), "pads=[1,1,1,1], strides=[2,2]", 16 * 6 * 6 * 8 * 9),
        ((8, 1, 3, 3), "pads=[1,1,1,1], group=8", 8 * 12 * 12 * 9),
        ((16, 4, 1, 1), "group=2", 16 * 12 * 12 * 4),
    ],
)
def test_convolutions(weight, attributes, expected):
    model = graph(
        f"g (float[N,8,12,12] x) => (float[N,A,B,C] y) {{ [c] y = Conv<{attributes}>(x, w) }}",
        w=zeros(*weight),
    )
    assert count_macs(model) == {"c": expected}


def test_linears_and_products_are_counted_for_one_image_whatever_the_windows():
    """4 windows of 49 tokens of 32 channels from each image: the batch of the attention is 4 N."""
    model = graph(
        """g (float[N,196,32] x) => (float[N,10] y) {
            windows = Constant<value_ints = [-1, 49, 32]>()
            tokens = Reshape(x, windows)
            [qkv] q = MatMul(tokens, w)
            k = Transpose<perm = [0, 2, 1]>(q)
            [score] s = MatMul(q, k)
            [value] v = MatMul(s, q)
            image = Constant<value_ints = [-1, 6272]>()
            flat = Reshape(v, image)
            [head] y = Gemm<transB = 1>(flat, h)
        }""",
        w=zeros(32, 32),
        h=zeros(10, 6272),
    )
    assert count_macs(model) == {
        "qkv": 4 * 49 * 32 * 32,
        "score": 4 * 49 * 49 * 32,
        "value": 4 * 49 * 49 * 32,
        "head": 6272 * 10,
    }


def test_gemm_with_a_transposed_input():
    model = graph(
        "g (float[5,3] x) => (float[A,B] y) { [g] y = Gemm<transA = 1>(x, w) }", w=zeros(5, 7)
    )
    assert count_macs(model) == {"g": 3 * 7 * 5}


def test_q_dq_and_types_change_nothing():
    text = """g (float[N,4] x) => (float16[N,6] y) {
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        dw = DequantizeLinear(w, s, z)
        [fc] o = MatMul(d, dw)
        y = Cast<to = 10>(o)
    }"""
    model = graph(text, s=np.float32(0.1), z=np.int8(0), w=np.zeros((4, 6), np.int8))
    assert count_macs(model) == {"fc": 24}


def test_weights_beside_the_graph_need_not_be_read(tmp_path):
    model = graph("g (float[N,64] x) => (float[N,64] y) { [fc] y = MatMul(x, w) }", w=zeros(64, 64))
    save_onnx(model, tmp_path / "m.onnx", external_above_bytes=0)
    (tmp_path / "m.onnx.data").unlink()
    read = load_onnx(tmp_path / "m.onnx", weights=False)
    assert count_macs(read) == {"fc": 64 * 64}
    assert read == onnx.load_model(
        tmp_path / "m.onnx", load_external_data=False
    )  # it was not changed


def test_shape_that_depends_on_values_is_an_error_naming_the_node():
    text = (
        "g (float[4,4] x) => (float[A,B] y) "
        "{ i = NonZero(x)  f = Cast<to = 1>(i)  [fc] y = MatMul(x, f) }"
    )
    with pytest.raises(ToolFailure, match=r"node fc \(MatMul\) cannot be inferred"):
        count_macs(graph(text))


def test_the_recorded_shape_of_the_result_helps_where_shapes_depend_on_values():
    # timm's ConvNeXt pools over axes that it computes from the rank.
    text = (
        "g (float[N,4] x) => (float[N,10] y) "
        "{ i = NonZero(x)  f = Cast<to = 1>(i)  [fc] y = MatMul(f, w) }"
    )
    assert count_macs(graph(text, w=zeros(4, 10))) == {"fc": 40}


def test_what_is_repeated_for_each_image_has_a_shape():
    """ONNX's own inference gives up at Tile: its repetitions come from the shape of the images."""
    model = graph(
        """g (float[N,3,4,4] images) => (float[N,5,8] y) {
            half = Cast<to = 10>(images)
            batch = Shape<start = 0, end = 1>(half)
            repeats = Concat<axis = 0>(batch, one, one)
            tokens = Tile(token, repeats)
            [fc] y = MatMul(tokens, w)
        }""",
        token=zeros(1, 5, 16),
        one=np.ones(1, np.int64),
        w=zeros(16, 8),
    )
    assert count_macs(model) == {"fc": 5 * 16 * 8}
