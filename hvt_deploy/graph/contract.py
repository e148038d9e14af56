"""What a deployable graph looks like: checked on every export, so that an engine build meets no
surprise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from hvt_deploy.core.errors import CheckFailed
from hvt_deploy.core.tensors import Signature
from hvt_deploy.graph.opset import read_opset

# At static resolution none of these is needed, and each costs TensorRT kernels or fails to build.
FORBIDDEN_OPS = frozenset({"Shape", "If", "Loop", "ScatterND", "GridSample"})
NAMED_OPS = frozenset({"MatMul", "Gemm", "Conv", "Softmax", "LayerNormalization"})


@dataclass(frozen=True)
class ContractReport:
    """The graph in numbers, and every breach of the contract in words."""

    nodes: int
    ops: Mapping[str, int]
    breaches: tuple[str, ...]


def inspect_contract(
    model: onnx.ModelProto, *, opset: int, signature: Signature, layer_norms: int
) -> ContractReport:
    """Look for operators that must not be there, LayerNorms that fell apart, wrong opsets, names
    and shapes.
    """
    ops = Counter(node.op_type for node in model.graph.node)
    breaches = [f"{ops[op]} {op} nodes" for op in sorted(FORBIDDEN_OPS & ops.keys())]
    if ops["LayerNormalization"] != layer_norms:
        breaches.append(
            f"{ops['LayerNormalization']} LayerNormalization nodes for {layer_norms} LayerNorms"
        )
    if read_opset(model) != opset:
        breaches.append(f"opset {read_opset(model)} instead of {opset}")
    foreign = sorted({n.domain for n in model.graph.node if n.domain not in ("", "ai.onnx")})
    breaches += [f"operators of the domain {domain}" for domain in foreign]
    unnamed = [
        n.name or n.op_type
        for n in model.graph.node
        if n.op_type in NAMED_OPS and "/" not in n.name
    ]
    breaches += [f"node {name} has no module path" for name in unnamed]
    repeated = [
        name for name, count in Counter(n.name for n in model.graph.node).items() if count > 1
    ]
    breaches += [f"several nodes are called {name}" for name in repeated]
    expected_in: tuple[str | int, ...] = (signature.batch or "batch", 3, *signature.image_size)
    expected_out: tuple[str | int, ...] = (signature.batch or "batch", signature.num_classes)
    breaches += _misshaped("input", model.graph.input, signature.input_name, expected_in)
    breaches += _misshaped("output", model.graph.output, signature.output_name, expected_out)
    used = {name for node in model.graph.node for name in node.input}
    breaches += [
        f"initializer {t.name} is not used" for t in model.graph.initializer if t.name not in used
    ]
    return ContractReport(len(model.graph.node), dict(ops), tuple(breaches))


def check_contract(
    model: onnx.ModelProto, *, opset: int, signature: Signature, layer_norms: int
) -> ContractReport:
    """`inspect_contract`, raising CheckFailed that names every breach."""
    report = inspect_contract(model, opset=opset, signature=signature, layer_norms=layer_norms)
    if report.breaches:
        raise CheckFailed(
            f"The exported graph breaks its contract: {'; '.join(report.breaches)}.",
            "Try another --simplifier; if it stays, report it with the model's name.",
        )
    return report


def _misshaped(what: str, values: object, name: str, expected: tuple[str | int, ...]) -> list[str]:
    infos = list(values)  # pyright: ignore[reportArgumentType, reportUnknownVariableType, reportUnknownArgumentType]
    found = [_describe(info) for info in infos]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    wanted = (name, TensorProto.FLOAT, expected)
    return [] if found == [wanted] else [f"the {what} is {found}, expected {wanted}"]


def _describe(info: onnx.ValueInfoProto) -> tuple[str, int, tuple[str | int, ...]]:
    tensor = info.type.tensor_type
    return info.name, tensor.elem_type, tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
