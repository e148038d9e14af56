"""The contract of a deployable graph, checked on every export, before any engine is built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from hvt_deploy.core.errors import CheckFailed
from hvt_deploy.core.tensors import Signature
from hvt_deploy.graph.opset import read_opset
from hvt_deploy.graph.queries import find_used

# At static resolution none of these is needed, and each costs TensorRT kernels or fails the build.
FORBIDDEN_OPS = {
    "Shape": "sizes that are computed at run time",
    "If": "a branch at run time",
    "Loop": "a loop at run time",
    "ScatterND": "values written by index, which no kernel is fused with",
    "GridSample": "resampling that a matrix could do",
}
NAMED_OPS = frozenset({"MatMul", "Gemm", "Conv", "Softmax", "LayerNormalization"})


@dataclass(frozen=True)
class ContractReport:
    """The graph in numbers, and every breach of the contract in words."""

    nodes: int
    """Number of nodes."""
    ops: Mapping[str, int]
    """Number of nodes of each operator."""
    breaches: tuple[str, ...]
    """A phrase per breach; empty if the graph keeps the contract."""


def inspect_contract(
    model: onnx.ModelProto,
    *,
    opset: int,
    signature: Signature,
    layer_norms: int,
    strict: bool = False,
) -> ContractReport:
    """Look for forbidden operators, decomposed LayerNorms, a wrong opset, wrong names and shapes.

    `layer_norms` is the number of LayerNorm modules in the PyTorch model. Unless it is `strict`, a
    graph may have more of them, written out by hand, and may read the shape of its images: a class
    token is repeated by it.
    """
    ops = Counter(node.op_type for node in model.graph.node)
    images = {value.name for value in model.graph.input if not strict}
    found = Counter(n.op_type for n in model.graph.node if images.isdisjoint(n.input[:1]))
    breaches = [
        f"{found[op]} {op} node{'s' * (found[op] > 1)} ({meaning})"
        for op, meaning in FORBIDDEN_OPS.items()
        if found[op]
    ]
    norms = ops["LayerNormalization"]
    if norms < layer_norms or (strict and norms > layer_norms):
        breaches.append(
            f"{norms} LayerNormalization nodes for {layer_norms} LayerNorms "
            "(the others are many small nodes)"
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
    breaches += [f"several nodes are named {name}" for name in repeated]
    expected_in: tuple[str | int, ...] = (signature.batch or "batch", 3, *signature.image_size)
    expected_out: tuple[str | int, ...] = (signature.batch or "batch", signature.num_classes)
    breaches += _misshaped("input", model.graph.input, signature.input_name, expected_in)
    breaches += _misshaped("output", model.graph.output, signature.output_name, expected_out)
    used = find_used(model.graph)
    breaches += [
        f"initializer {t.name} is not used" for t in model.graph.initializer if t.name not in used
    ]
    return ContractReport(len(model.graph.node), dict(ops), tuple(breaches))


def check_contract(
    model: onnx.ModelProto, *, opset: int, signature: Signature, layer_norms: int
) -> ContractReport:
    """`inspect_contract`, raising CheckFailed that names every breach."""
    report = inspect_contract(
        model, opset=opset, signature=signature, layer_norms=layer_norms, strict=True
    )
    if report.breaches:
        raise CheckFailed(
            f"The exported graph breaks its contract: {'; '.join(report.breaches)}.",
            "Try another --simplifier; if the error stays, report it with the model's name.",
        )
    return report


def describe_breaches(name: str, breaches: Sequence[str]) -> str:
    """What breaches mean for a network that was not written here, and what to do."""
    return (
        f"The graph of {name} may cost TensorRT more kernels than it needs: {'; '.join(breaches)}. "
        "It computes the right thing, and can be used as it is; another --simplifier may give a "
        "better one."
    )


def _misshaped(
    end: str, values: Iterable[onnx.ValueInfoProto], name: str, shape: tuple[str | int, ...]
) -> list[str]:
    found = [_describe_value(value) for value in values]
    expected = (name, TensorProto.FLOAT, shape)
    return [] if found == [expected] else [f"the {end} is {found}, expected {expected}"]


def _describe_value(info: onnx.ValueInfoProto) -> tuple[str, int, tuple[str | int, ...]]:
    tensor = info.type.tensor_type
    return info.name, tensor.elem_type, tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
