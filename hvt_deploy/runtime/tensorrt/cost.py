"""The cost of an engine, counted in its own list of layers: a latency proxy that needs no GPU.

Every kernel reads each tensor that is listed among its inputs and writes each among its outputs;
elements × bytes of an element, summed over all kernels, are the activations' bytes. The constants
that the kernels read (weights, biases, position biases) are the weights' bytes and in no other sum.
A tensor that a kernel lists twice counts twice; caches are left out. What only computes shapes,
waits or signals is no kernel.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hvt_deploy.core.errors import HvtDeployError, ToolFailure
from hvt_deploy.core.types import Skipped
from hvt_deploy.graph.analysis.engine_audit import ByPrecision
from hvt_deploy.graph.analysis.engine_cost import (
    EngineCost,
    GroupCost,
    KernelCost,
    ProfileCost,
)
from hvt_deploy.graph.analysis.node_facts import NodeFacts, read_facts
from hvt_deploy.graph.storage import load_onnx
from hvt_deploy.runtime.tensorrt.attribution import (
    Product,
    find_products,
    split_by_group,
    sum_by_precision,
)
from hvt_deploy.runtime.tensorrt.build import BuildOutcome, build_engine
from hvt_deploy.runtime.tensorrt.layer_list import EngineLayer
from hvt_deploy.runtime.tensorrt.layer_tensors import LayerTensor
from hvt_deploy.runtime.tensorrt.plan import BuildPlan, Profile

_NAMES = {"Half": "fp16", "Float": "fp32", "BFloat16": "bf16"}
WHAT = "engine cost"


def count_cost(
    layers: Sequence[EngineLayer], nodes: Sequence[NodeFacts], batch: int
) -> EngineCost | Skipped:
    """The cost of the layers of one profile at `batch`; `nodes` are those of the graph.

    Without `nodes` MACs, stages and roles stay unknown. Skipped, with the layer and tensor that is
    to blame, where the bytes cannot be counted: there are no layers, or a tensor's data type or
    dimensions are not reported (-1 in the list of an engine with a range of batch sizes).
    """
    kernels = [layer for layer in layers if layer.is_kernel]
    if not kernels:
        return Skipped(WHAT, "the layers of the engine could not be read")
    if not nodes and any(layer.constants is None for layer in kernels):
        return Skipped(WHAT, "weights are neither in the list of layers nor known from the graph")
    products = find_products(kernels, nodes)
    kernels = _complete_constants(kernels, products)
    for layer in kernels:
        for tensor in (*layer.inputs, *layer.outputs, *(layer.constants or ())):
            if tensor.size_bytes is None:
                return Skipped(WHAT, _describe_unknown(layer, tensor))
    counted = batch if nodes else None
    return EngineCost(
        batch=batch,
        whole=_sum_cost(kernels, products, counted),
        groups=tuple(
            GroupCost(*group, _sum_cost(layers, made, counted))
            for group, layers, made in split_by_group(kernels, products, nodes)
        ),
    )


def find_cost(
    plan: BuildPlan, batch: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> EngineCost | Skipped:
    """The cost of `plan.onnx` at `batch` for the target of `plan`, by a build that is thrown away.

    The build runs in a child process and is for that batch size alone, so that every dimension is
    known; `plan.engine` and `plan.profiles` are of no account. Raises as `build_engine` does.
    """
    with tempfile.TemporaryDirectory(prefix="hvt-deploy-") as folder:
        fixed = (Profile(batch, batch, batch),)
        engine = Path(folder) / "cost.engine"
        outcome = build_engine(replace(plan, engine=engine, profiles=fixed), progress)
    try:
        nodes = read_facts(load_onnx(plan.onnx, weights=False))
    except ToolFailure:  # the shapes of a product cannot be inferred
        nodes = ()
    return count_cost(outcome.layers, nodes, batch)


def _complete_constants(
    kernels: Sequence[EngineLayer], products: Sequence[Product]
) -> list[EngineLayer]:
    """The kernels; those of which the list does not tell the constants get the weights of the
    products that they compute: TensorRT's kernels for matrix products.
    """
    missing: defaultdict[str, list[LayerTensor]] = defaultdict(list)
    for product in products:
        layer, weights = product.layer, product.node.weights
        if layer and weights and layer.constants is None:
            missing[layer.name].append(LayerTensor(product.node.name, layer.precision, (weights,)))
    return [
        replace(k, constants=tuple(missing[k.name])) if k.constants is None else k for k in kernels
    ]


def count_profile_cost(
    plan: BuildPlan,
    outcome: BuildOutcome,
    nodes: Sequence[NodeFacts],
    profile: int,
    batch: int,
    build: Callable[[BuildPlan, int], EngineCost | Skipped] = find_cost,
) -> ProfileCost:
    """The cost of an engine at `batch`, OPT of its profile number `profile`.

    TensorRT-RTX lists no sizes for a range of batches: then the cost is that of another build of
    the graph, made by `build` for this batch alone. Where that fails, too, the cost is Skipped.
    """
    layers = [layer for layer in outcome.layers if layer.profile == profile]
    own = count_cost(layers, nodes, batch)
    if isinstance(own, EngineCost) or not layers or plan.flavour != "tensorrt_rtx":
        return ProfileCost(batch, own)
    try:
        alone = build(plan, batch)
    except HvtDeployError as error:
        why = f"{own.why}, and a build for batch {batch} alone failed: {error.message}"
        return ProfileCost(batch, Skipped(WHAT, why))
    kernels = sum(layer.is_kernel for layer in layers)
    note = (
        "An engine for a range of batch sizes does not list its sizes: the next figures are those "
        f"of a second build, for batch {batch} only"
    )
    if isinstance(alone, EngineCost) and alone.whole.kernels != kernels:
        note += f", which has {alone.whole.kernels} kernels; the engine has {kernels}"
    return ProfileCost(batch, alone, note=f"{note}.")


def _sum_cost(
    kernels: Sequence[EngineLayer], products: Sequence[Product], batch: int | None
) -> KernelCost:
    macs: ByPrecision | None = None
    if batch is not None:
        macs = sum_by_precision((p.precision, p.node.macs * batch) for p in products)
    return KernelCost(
        kernels=len(kernels),
        moves_only=sum(layer.is_reformat for layer in kernels),
        read=_sum_bytes(tensor for layer in kernels for tensor in layer.inputs),
        written=_sum_bytes(tensor for layer in kernels for tensor in layer.outputs),
        weights=_sum_bytes(tensor for layer in kernels for tensor in layer.constants or ()),
        macs=macs,
    )


def _sum_bytes(tensors: Iterable[LayerTensor]) -> Mapping[str, int]:
    totals: Counter[str] = Counter()
    for tensor in tensors:
        totals[_NAMES.get(tensor.dtype, tensor.dtype.lower())] += tensor.size_bytes or 0
    return dict(totals)


def _describe_unknown(layer: EngineLayer, tensor: LayerTensor) -> str:
    dims = "not reported" if tensor.dims is None else list(tensor.dims)
    return (
        f"in layer '{layer.name}' tensor '{tensor.name}' has data type {tensor.dtype} and "
        f"dimensions {dims}"
    )
