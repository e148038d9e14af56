"""`summarize_graph`: the sums are those of the model; precision is read from the graph, not from
its name.
"""

from __future__ import annotations

import pytest
from onnx import numpy_helper

from hvt_deploy.commands.inspect import COLUMNS, graph_rows, inspect_onnx
from hvt_deploy.core.errors import BadInput
from hvt_deploy.graph.analysis.macs import count_macs
from hvt_deploy.graph.analysis.roles import PRODUCT_ROLES
from hvt_deploy.graph.analysis.summary import summarize_graph
from hvt_deploy.graph.opset import convert_opset
from hvt_deploy.graph.quantization.fp16 import to_fp16
from hvt_deploy.graph.quantization.qdq import quantize_int8, select_nodes


def test_every_node_parameter_and_mac_is_in_one_group(fp32):
    facts = summarize_graph(fp32)
    assert facts.opset == 17
    assert sum(group.nodes for group in facts.groups) == len(fp32.graph.node)
    floats = [numpy_helper.to_array(t) for t in fp32.graph.initializer]
    expected = sum(values.size for values in floats if values.dtype.kind == "f")
    assert sum(group.parameters for group in facts.groups) == expected
    assert dict(facts.macs) == {"fp32": sum(count_macs(fp32).values())}
    groups = {(group.stage, group.role): group for group in facts.groups}
    assert {stage for stage, _ in groups} == {"stem", "0", "1", "2", "3", "head"}


def test_int8_and_fp16_are_counted_by_their_macs(fp32, ranges):
    raised = convert_opset(fp32, 20)
    mixed = to_fp16(quantize_int8(raised, ranges, PRODUCT_ROLES), ranges).model
    macs = count_macs(fp32)
    quantized = sum(macs[name] for name in select_nodes(fp32, PRODUCT_ROLES))
    facts = summarize_graph(mixed)
    assert facts.macs["int8"] == quantized
    assert sum(facts.macs.values()) == sum(macs.values())
    assert facts.macs.get("fp32", 0) == 0
    lines = graph_rows(facts)
    assert all(len(line) == len(COLUMNS) for line in lines)
    assert lines[-1][0] == "all"


def test_the_label_int8_on_a_graph_without_qdq_shows_as_what_it_is(fp32, ranges):
    half = to_fp16(fp32, ranges).model
    assert set(summarize_graph(half).macs) == {"fp16"}


def test_what_is_no_graph_is_refused(tmp_path):
    file = tmp_path / "m.onnx"
    file.write_bytes(b"no model at all")
    with pytest.raises(BadInput):
        inspect_onnx(file)
    file.write_bytes(b"")
    with pytest.raises(BadInput, match="no graph"):
        inspect_onnx(file)
