"""External weights: the whole way from a module to logits, with and without the weights in
memory.
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from hvt_deploy.core.tensors import Signature
from hvt_deploy.graph.large_weights import LARGE_BYTES
from hvt_deploy.graph.opset import convert_opset
from hvt_deploy.graph.simplify import simplify
from hvt_deploy.graph.storage import load_onnx, save_onnx
from hvt_deploy.graph.torch_export import export_onnx

SIMPLIFIERS = ("onnxslim",) if sys.version_info < (3, 11) else ("onnxsim", "onnxslim")
SIDE, WIDTH, CLASSES = 8, 640, 10
SIGNATURE = Signature((SIDE, SIDE), CLASSES)


class Layers(nn.Module):
    """Linears on tokens whose weights are above the limit, one of them scaled and reshaped in the
    forward pass.
    """

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3 * SIDE, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)
        self.third = nn.Linear(WIDTH, WIDTH)
        self.stored = nn.Parameter(torch.randn(WIDTH // 2, 2 * WIDTH) / WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, images):
        tokens = self.first(images.permute(0, 2, 1, 3).flatten(2))
        tokens = self.third(torch.relu(self.second(tokens)))
        tokens = tokens @ (self.stored * 0.5).reshape(WIDTH, WIDTH)
        return self.head(tokens.mean(dim=1))


@pytest.fixture(scope="module")
def layers():
    torch.manual_seed(0)
    return Layers().eval().requires_grad_(False)


def logits(path, images):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


def noise(batch):
    return np.random.default_rng(batch).standard_normal((batch, 3, SIDE, SIDE), dtype=np.float32)


@pytest.mark.parametrize("tool", [*SIMPLIFIERS, "none"])
def test_a_graph_with_its_weights_beside_it_is_the_same_function(layers, tool, tmp_path):
    data = tmp_path / "m.onnx.data"
    graph = export_onnx(layers, SIGNATURE, 17, data)
    graph = convert_opset(simplify(graph, tool), 17)
    save_onnx(graph, tmp_path / "m.onnx")
    for batch in (1, 2, 3):
        expected = layers(torch.from_numpy(noise(batch))).numpy()
        assert (
            np.abs(logits(tmp_path / "m.onnx", noise(batch)) - expected).max()
            <= 2e-5 * np.abs(expected).max()
        )


def test_the_graph_file_holds_no_large_weight_and_the_data_file_each_one_once(layers, tmp_path):
    data = tmp_path / "m.onnx.data"
    save_onnx(simplify(export_onnx(layers, SIGNATURE, 18, data), "onnxslim"), tmp_path / "m.onnx")
    large = [
        parameter.nbytes for parameter in layers.parameters() if parameter.nbytes >= LARGE_BYTES
    ]
    assert data.stat().st_size == sum(large)
    assert (tmp_path / "m.onnx").stat().st_size < LARGE_BYTES
    assert len(large) == 3


@pytest.mark.parametrize("tool", SIMPLIFIERS)
def test_nothing_is_left_to_compute_from_weights_alone(layers, tool, tmp_path):
    graph = simplify(export_onnx(layers, SIGNATURE, 18, tmp_path / "d"), tool).graph
    constants = {tensor.name for tensor in graph.initializer}
    assert [node.name for node in graph.node if set(node.input) <= constants] == []
    assert [value.name for value in graph.input] == ["images"]


def test_weights_in_memory_and_in_a_file_give_the_same_graph(layers, tmp_path):
    inside = simplify(export_onnx(layers, SIGNATURE, 18), "onnxslim")
    beside = simplify(export_onnx(layers, SIGNATURE, 18, tmp_path / "d"), "onnxslim")
    assert list(beside.graph.node) == list(inside.graph.node)
    onnx.load_external_data_for_model(beside, str(tmp_path))
    values = [
        {t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer}
        for m in (inside, beside)
    ]
    assert values[0].keys() == values[1].keys()
    for name, array in values[0].items():
        np.testing.assert_array_equal(values[1][name], array)


def test_loading_without_weights_leaves_them_in_their_file(layers, tmp_path):
    save_onnx(
        simplify(export_onnx(layers, SIGNATURE, 18, tmp_path / "m.onnx.data"), "onnxslim"),
        tmp_path / "m.onnx",
    )
    assert load_onnx(tmp_path / "m.onnx", weights=False).ByteSize() < LARGE_BYTES
    assert load_onnx(tmp_path / "m.onnx").ByteSize() > 3 * LARGE_BYTES
