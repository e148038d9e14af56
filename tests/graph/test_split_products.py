"""q, k and v as three products: the same function, in exactly the blocks that have them as one."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from hvt_deploy.graph.edit import copy_model
from hvt_deploy.graph.split_products import split_products
from hvt_deploy.graph.storage import load_onnx


@pytest.fixture(scope="module")
def graph(exported_graph) -> onnx.ModelProto:
    return load_onnx(exported_graph("hvt_demo"))


def count(model: onnx.ModelProto, op_type: str, path: str = "") -> int:
    return sum(n.op_type == op_type and path in n.name for n in model.graph.node)


def compute(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    taken = session.get_inputs()[0]
    images = np.random.default_rng(0).random((3, *taken.shape[1:]), dtype=np.float32)
    (logits,) = session.run(None, {taken.name: images})
    return logits


def test_every_block_gets_three_products_of_the_same_function(graph) -> None:
    split, blocks = split_products(graph), count(graph, "Softmax")
    assert (count(graph, "Split"), count(graph, "MatMul", ".qkv/")) == (blocks, blocks)
    assert (count(split, "Split"), count(split, "MatMul", ".qkv/")) == (0, 3 * blocks)
    assert len({node.name for node in split.graph.node}) == len(split.graph.node)
    assert np.abs(compute(split) - compute(graph)).max() <= 1e-5 * np.abs(compute(graph)).max()


def test_kept_and_quantized_products_stay_one(graph) -> None:
    first, second, *_ = (n for n in graph.graph.node if ".qkv/MatMul" in n.name)
    changed = copy_model(graph)
    node = next(n for n in changed.graph.node if n.name == second.name)
    node.input[1] = "dequantized"
    changed.graph.node.insert(
        0, onnx.helper.make_node("Identity", [second.input[1]], ["dequantized"], "weight")
    )
    split = split_products(changed, kept={first.name})
    assert count(split, "Split") == 2
    assert {first.name, second.name} <= {node.name for node in split.graph.node}


def test_a_cut_within_heads_or_into_unequal_parts_is_left_alone(graph) -> None:
    for axis, sizes in ((3, None), (1, [1, 3, 5])):
        changed = copy_model(graph)
        for cut in [n for n in changed.graph.node if n.op_type == "Split"]:
            cut.attribute[0].i = axis
            if sizes:
                cut.input.append("sizes")
        if sizes:
            changed.graph.initializer.append(
                onnx.numpy_helper.from_array(np.array(sizes, np.int64), "sizes")
            )
        assert count(split_products(changed), "Split") == count(graph, "Split")
