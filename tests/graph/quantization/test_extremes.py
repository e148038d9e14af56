"""The smallest and the largest value of tensors and channels, however the rows are cut."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from hvt_deploy.graph.quantization.extremes import add_extremes
from hvt_deploy.graph.quantization.ort_session import open_graph


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("rows", ["8", "12", "13, 4", "13, 7", "1", "L", "L, 6"])
def test_extremes_of_channels_are_those_of_all_rows(rows, opset):
    sizes = [int(size) if size.isdigit() else 5 for size in rows.split(", ")]
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}]> g (float[N, {rows}, 6] images) =>
        (float[N, {rows}, 6] logits) <float[6] g = {{1, 2, 3, 4, 5, 6}}> {{
        x = Mul (images, g) p = Softmax (x) logits = Identity (p) }}"""
    )
    model = onnx.shape_inference.infer_shapes(model)
    add_extremes(model, ["images", "x", "p"], ["x"])
    wanted = [f"{name}/{end}" for name in ("images", "x", "p") for end in ("min", "max")]
    images = np.random.default_rng(0).standard_normal((3, *sizes, 6)).astype(np.float32)
    (found,) = open_graph(model, 1)(wanted, [images])
    rows_NC = (images * np.arange(1, 7, dtype=np.float32)).reshape(-1, 6)
    softmax = np.exp(rows_NC) / np.exp(rows_NC).sum(axis=1, keepdims=True)
    expected = [images.min(), images.max(), rows_NC.min(0), rows_NC.max(0), 0, softmax.max()]
    for name, values, numbers in zip(wanted, expected, found, strict=True):
        assert numbers == pytest.approx(values, rel=1e-5), name
