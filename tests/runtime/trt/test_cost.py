"""What a list of layers says that an engine costs, and what it does not say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx import parser

from hvt_deploy.core.types import Skipped
from hvt_deploy.graph.analysis.engine_audit import ByPrecision
from hvt_deploy.graph.analysis.engine_cost import EngineCost
from hvt_deploy.graph.analysis.node_facts import NodeFacts
from hvt_deploy.graph.storage import save_onnx
from hvt_deploy.runtime.tensorrt.cost import count_cost, find_cost
from hvt_deploy.runtime.tensorrt.layer_list import parse_inspector_json, parse_layer_lines
from hvt_deploy.runtime.tensorrt.layer_tensors import LayerTensor
from hvt_deploy.runtime.tensorrt.plan import BuildPlan

# As TensorRT-RTX prints them: a shape on the host, a copy, a product, a wait.
LINES = """Layers:
Name: __mye1_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: 
Name: __myl_Move_myl0_1, LayerType: kgen, Inputs: [ { Name: images, Dimensions: [2,3,8,8], Strides: [192,64,8,1], StrideOrder: [3,2,1,0], Datatype: Float, Format: (Linear) Row major linear format }], Constants: [], Outputs: [ { Name: x, Dimensions: [2,192], Strides: [192,1], StrideOrder: [1,0], Datatype: Half, Format: (Linear) Row major linear format }], TacticName: __myl_Move_0x1, StreamId: 0, Metadata: 
Name: levels.0.fc1/MatMul_myl0_2, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [2,192], Strides: [192,1], StrideOrder: [1,0], Datatype: Half, Format: (Linear) Row major linear format }], Constants: [ { Name: w, Dimensions: [192,64], Strides: [64,1], StrideOrder: [1,0], Datatype: Int8, Format: (Linear) Row major linear format }, { Name: alpha, Dimensions: [1], Strides: [1], StrideOrder: [0], Datatype: Float, Format: (Linear) Row major linear format }], Outputs: [ { Name: mask, Dimensions: [2,64], Strides: [64,1], StrideOrder: [1,0], Datatype: Bool, Format: (Linear) Row major linear format }, { Name: y, Dimensions: [], Strides: [], StrideOrder: [], Datatype: Int64, Format: (Linear) Row major linear format }], TacticName: cask, StreamId: 0, Metadata: [ONNX Layer: levels.0.fc1/MatMul]
Name: wait_myl0_3, LayerType: wait, Inputs: [ { Name: y, Dimensions: [], Datatype: Int64 }], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: 
"""  # noqa: E501, W291
NODES = (NodeFacts("levels.0.fc1/MatMul", "0", "fc1", macs=192 * 64, weights=192 * 64),)


def tensor(dtype: str, *dims: int) -> LayerTensor:
    return LayerTensor("t", dtype, dims)


def counted(lines: str = LINES) -> EngineCost | Skipped:
    return count_cost(parse_layer_lines(lines), NODES, batch=2)


def test_every_kernel_reads_and_writes_what_the_list_says() -> None:
    found = counted()
    assert isinstance(found, EngineCost)
    assert (found.batch, found.whole.kernels, found.whole.moves_only) == (2, 2, 1)
    assert found.whole.read == {"fp32": 2 * 192 * 4, "fp16": 2 * 192 * 2}
    assert found.whole.written == {"fp16": 2 * 192 * 2, "bool": 2 * 64, "int64": 8}
    assert found.whole.weights == {"int8": 192 * 64, "fp32": 4}
    assert found.whole.macs == ByPrecision(fp16=2 * 192 * 64)
    assert found.whole.traffic_bytes == 2 * 192 * 8 + 2 * 64 + 8 + 192 * 64 + 4
    groups = {(g.stage, g.role): g.cost for g in found.groups}
    assert list(groups) == [("0", "fc1"), ("", "other")]
    assert groups["0", "fc1"].weight_bytes == 192 * 64 + 4
    assert sum(cost.traffic_bytes for cost in groups.values()) == found.whole.traffic_bytes
    assert sum(cost.kernels for cost in groups.values()) == found.whole.kernels


@pytest.mark.parametrize(
    ("printed", "instead"),
    [
        ("Dimensions: [2,192]", "Dimensions: [-1,192]"),
        ("Dimensions: [2,192], ", ""),
        ("Datatype: Half", "Datatype: Half3"),
        (", Datatype: Half", ""),
    ],
)
def test_a_tensor_of_unknown_size_makes_the_cost_unknown(printed: str, instead: str) -> None:
    found = counted(LINES.replace(printed, instead))
    assert isinstance(found, Skipped)
    assert "'__myl_Move_myl0_1' tensor 'x'" in found.why


def test_a_kernel_that_lists_no_constants_reads_none() -> None:
    """TensorRT-RTX may name a product in several kernels; one of them reads the weights."""
    constants = LINES[LINES.index("[ { Name: w,") : LINES.index(", Outputs: [ { Name: mask")]
    found = counted(LINES.replace(constants, "[]"))
    assert isinstance(found, EngineCost)
    assert found.whole.weights == {}


def test_no_layers_are_no_cost() -> None:
    assert isinstance(count_cost((), NODES, 2), Skipped)


def test_elements_below_a_byte_fill_bytes() -> None:
    sizes = {"Int4": 2, "FP4": 2, "Int8": 3, "FP8": 3, "Bool": 3, "Half": 6, "Int64": 24}
    assert {dtype: tensor(dtype, 3).size_bytes for dtype in sizes} == sizes
    assert tensor("Float").size_bytes == 4


def test_tensorrt_lists_weights_of_convolutions_only() -> None:
    """Those of its matrix products are taken from the graph, in the precision of the kernel."""
    text = "Thirty-two wide channel vectorized row major Int8 format"
    conv = {
        "Name": "stem/Conv",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "a", "Dimensions": [1, 32, 4, 4], "Format/Datatype": text}],
        "Outputs": [{"Name": "b", "Dimensions": [1, 32, 4, 4], "Format/Datatype": "Half"}],
        "Weights": {"Type": "Int8", "Count": 1024},
        "Bias": {"Type": "Float", "Count": 32},
        "TacticName": "sm80",
    }
    gemm = {
        "Name": "fc1_myl0_1",
        "LayerType": "gemm",
        "Inputs": [{"Name": "b", "Dimensions": [16, 32], "Format/Datatype": "Half"}],
        "Outputs": [{"Name": "c", "Dimensions": [16, 8], "Format/Datatype": "Half"}],
        "Metadata": "[ONNX Layer: fc1/MatMul]",
        "TacticName": "sm80",
    }
    layers = parse_inspector_json(json.dumps({"Layers": [conv, gemm]}))
    nodes = (NodeFacts("fc1/MatMul", "0", "fc1", macs=16 * 32 * 8, weights=32 * 8),)
    found = count_cost(layers, nodes, 1)
    assert isinstance(found, EngineCost)
    assert found.whole.weights == {"int8": 1024, "fp32": 128, "fp16": 2 * 32 * 8}
    assert found.whole.activation_bytes == 512 + 1024 + 1024 + 16 * 8 * 2
    gemm_only = [layer for layer in layers if layer.type == "gemm"]
    assert isinstance(count_cost(gemm_only, (), 1), Skipped)  # its weights are nowhere


def test_cost_of_a_graph_is_that_of_a_build_at_the_batch(tmp_path: Path) -> None:
    """A graph with any batch size, of which a list for a range of batches says nothing."""
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float16[N,64] x) => (float16[N,64] y)
        <float16[64,64] w = {%s}> { ["blocks.0.mlp.fc1/MatMul"] y = MatMul(x, w) }"""
    path = tmp_path / "net.onnx"
    save_onnx(parser.parse_model(text % ", ".join(["1"] * 64 * 64)), path)
    plan = BuildPlan(path, path, "tensorrt_rtx", ("8.6",), (), 256)
    for batch in (2, 16):
        found = find_cost(plan, batch)
        assert isinstance(found, EngineCost)
        assert found.whole.macs == ByPrecision(fp16=batch * 64 * 64)
        assert found.whole.read["fp16"] == found.whole.written["fp16"] == batch * 64 * 2
        assert found.whole.weights["fp16"] >= 64 * 64 * 2
