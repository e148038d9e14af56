"""The transform in the graph against the exact Pillow pipeline."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from PIL import Image

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.data.images import preprocess
from hvt_deploy.graph.opset import read_opset
from hvt_deploy.graph.preprocessing import add_preprocessing

SHAPES = ((375, 500), (500, 333), (224, 224), (64, 48), (97, 301), (1200, 803), (257, 255))
TRANSFORMS = (
    Preprocessing((224, 224)),
    Preprocessing((224, 224), interpolation="bilinear"),
    Preprocessing((256, 256), crop_pct=1.0, crop_mode="squash"),
    Preprocessing((96, 160), crop_pct=0.9),
)


def plain_graph(opset=17):
    """Gives back what it gets, so that what the transform made can be seen."""
    value = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", 3, "h", "w"])
        for n in ("x", "y")
    ]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"], "same")], "g", [value[0]], [value[1]]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def photo(shape, seed):
    """Edges, gradients and noise, as photos have them."""
    height, width = shape
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack(
        [np.sin(x / (3 + c)) + np.cos(y / (5 + c)) + ((x // 17 + y // 11) % 2) for c in range(3)],
        -1,
    )
    return np.clip(80 + 50 * waves + rng.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)


def pixel_differences(transform, shape):
    """|difference| in units of a pixel's 256 values."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    model = add_preprocessing(plain_graph(), transform)
    onnx.checker.check_model(model)
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    images = np.stack([photo(shape, seed) for seed in (0, 1)])
    found = session.run(None, {"images_NHWC": images})[0]
    expected = np.stack([preprocess(Image.fromarray(image), transform) for image in images])
    assert found.shape == expected.shape
    return np.abs(found - expected) * np.array(transform.std)[:, None, None] * 255


@pytest.mark.parametrize(
    "transform", TRANSFORMS, ids=lambda t: f"{t.image_size}-{t.crop_mode}-{t.interpolation}"
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pixels_are_pillows_within_rounding(transform, shape):
    difference = pixel_differences(transform, shape)
    # Where Pillow resizes columns before rows, rounding in between gives other pixels: 4 to 6 at
    # most on this noise.
    assert difference.max() < 8
    assert difference.mean() < 0.3


def test_pixels_are_pillows_where_it_resizes_rows_first():
    for transform in TRANSFORMS:
        difference = pixel_differences(transform, (375, 500))
        assert difference.max() < 1.01
        assert difference.mean() < 0.002


def test_the_graph_is_raised_to_where_antialiasing_exists_and_the_plain_one_stays():
    plain = plain_graph(17)
    before = plain.SerializeToString()
    assert read_opset(add_preprocessing(plain, TRANSFORMS[0])) == 18
    assert read_opset(add_preprocessing(plain_graph(19), TRANSFORMS[0])) == 19
    assert plain.SerializeToString() == before


@pytest.mark.parametrize(
    "transform", [Preprocessing((8, 8), interpolation="nearest"), Preprocessing((8, 8), 1.1)]
)
def test_what_it_would_do_differently_is_refused(transform):
    with pytest.raises(BadInput, match="cannot be in a graph"):
        add_preprocessing(plain_graph(), transform)
