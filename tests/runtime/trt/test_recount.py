"""The cost of engines of whole models against a second count of the same list, written apart."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from hvt_deploy.evaluation.verification.verified_graphs import prepare_graphs
from hvt_deploy.graph.analysis.engine_cost import EngineCost
from hvt_deploy.graph.analysis.node_facts import read_facts
from hvt_deploy.graph.storage import load_onnx
from hvt_deploy.runtime.tensorrt import build_process
from hvt_deploy.runtime.tensorrt.cost import count_cost
from hvt_deploy.runtime.tensorrt.plan import BuildPlan, Profile

MODELS = (
    "faster_vit_0_224",
    "fdvit_b",
    "timm:swin_tiny_patch4_window7_224",
    "timm:efficientvit_b0.r224_in1k",
)
BYTES = {"Float": 4, "Half": 2, "Int8": 1, "Int32": 4, "Int64": 8, "Bool": 1}
NAMES = {"Float": "fp32", "Half": "fp16"}


def recount(message: str) -> tuple[int, dict[str, Counter[str]]]:
    """Kernels, and the bytes of their inputs, constants and outputs, by data type."""
    kernels = 0
    found = {part: Counter[str]() for part in ("Inputs", "Constants", "Outputs")}
    for line in message.split("\n\n", maxsplit=1)[0].split("\n")[1:]:
        kind = line.split("LayerType: ")[1].split(",")[0]
        if kind in ("shape_call", "constant", "noop", "signal", "wait"):
            continue
        kernels += 1
        rest = line.split(", TacticName: ")[0].split(", Inputs: ")[1]
        inputs, rest = rest.split(", Constants: ")
        constants, outputs = rest.split(", Outputs: ")
        for part, text in (("Inputs", inputs), ("Constants", constants), ("Outputs", outputs)):
            for entry in text.split("Dimensions: [")[1:]:
                dtype = entry.split("Datatype: ")[1].split(",")[0].split(" ")[0]
                size = BYTES[dtype]
                for length in filter(None, entry.split("]")[0].split(",")):
                    size *= int(length)
                found[part][NAMES.get(dtype, dtype.lower())] += size
    return kernels, found


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_the_cost_of_a_model_is_that_of_a_second_count(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = prepare_graphs(model, tmp_path)
    messages: list[str] = []
    parse = build_process.parse_layer_lines
    monkeypatch.setattr(
        build_process, "parse_layer_lines", lambda text: messages.append(text) or parse(text)
    )
    for precision in ("fp16", "int8"):
        onnx = graphs.onnx(precision)
        nodes = read_facts(load_onnx(onnx, weights=False))
        for batch in (1, 8):
            fixed = (Profile(batch, batch, batch),)
            plan = BuildPlan(onnx, tmp_path / "e", "tensorrt_rtx", ("8.6",), fixed, 4096)
            cost = count_cost(build_process.compile_engine(plan).layers, nodes, batch)
            kernels, found = recount(messages[-1])
            assert isinstance(cost, EngineCost)
            whole = cost.whole
            assert whole.kernels == kernels == sum(g.cost.kernels for g in cost.groups)
            assert whole.read == found["Inputs"]
            assert whole.written == found["Outputs"]
            assert whole.weights == found["Constants"]
            assert whole.traffic_bytes == sum(g.cost.traffic_bytes for g in cost.groups)
            assert whole.macs is not None
            assert whole.macs.total == batch * sum(node.macs for node in nodes)
