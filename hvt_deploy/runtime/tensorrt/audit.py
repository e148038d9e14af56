"""Audit an engine: attribute its layers to the nodes of the graph it was built from."""

from __future__ import annotations

from collections.abc import Sequence

from hvt_deploy.graph.analysis.engine_audit import (
    EngineAudit,
    GroupAudit,
    NotInt8,
)
from hvt_deploy.graph.analysis.node_facts import NodeFacts
from hvt_deploy.runtime.tensorrt.attribution import (
    Product,
    find_products,
    name_precision,
    split_by_group,
    sum_by_precision,
)
from hvt_deploy.runtime.tensorrt.layer_list import EngineLayer

FUSED_ATTENTION = "_gemm_mha_v2"


def audit_layers(layers: Sequence[EngineLayer], nodes: Sequence[NodeFacts] = ()) -> EngineAudit:
    """Count the kernels; `nodes` are those of the graph, without which MACs stay unknown.

    A product runs in the precision of the kernel that computes it; where several may, in the widest
    of theirs. Every profile has kernels of its own: those that count are of the profile with the
    least INT8, or the first.
    """
    profiles = sorted({layer.profile for layer in layers}) or [0]
    return min(
        (_audit_profile(layers, nodes, profile) for profile in profiles),
        key=lambda audit: audit.int8_share,
    )


def _audit_profile(
    layers: Sequence[EngineLayer], nodes: Sequence[NodeFacts], profile: int
) -> EngineAudit:
    kernels = [layer for layer in layers if layer.profile == profile and layer.is_kernel]
    products = find_products(kernels, nodes)
    quantized = [product for product in products if product.node.quantized]
    int8 = [product for product in quantized if product.precision == "int8"]
    whole = _count_group("", "", kernels, products)
    fused = [layer for layer in kernels if FUSED_ATTENTION in layer.name]
    return EngineAudit(
        kernels=len(kernels),
        layers=whole.layers,
        reformats=whole.reformats,
        macs=whole.macs,
        weights=whole.weights,
        fused_attention=len(fused),
        attention_blocks=sum(node.attention for node in nodes),
        quantized_macs=sum(product.node.macs for product in quantized),
        quantized_int8_macs=sum(product.node.macs for product in int8),
        not_int8=tuple(_describe_not_int8(product) for product in quantized if product not in int8),
        groups=_count_groups(kernels, products, nodes),
        int8_attention=sum(_is_int8_attention(layer) for layer in fused),
    )


def _is_int8_attention(layer: EngineLayer) -> bool:
    """Whether q, k, v and the result are INT8; what else it reads is added to the scores."""
    return {t.dtype for t in (*layer.inputs[:3], *layer.outputs)} == {"Int8"}


def _count_groups(
    kernels: Sequence[EngineLayer], products: Sequence[Product], nodes: Sequence[NodeFacts]
) -> tuple[GroupAudit, ...]:
    """The counts of each stage and role, in the order of the graph."""
    return tuple(
        _count_group(*group, layers, made)
        for group, layers, made in split_by_group(kernels, products, nodes)
    )


def _count_group(
    stage: str, role: str, kernels: Sequence[EngineLayer], products: Sequence[Product]
) -> GroupAudit:
    computing = [layer for layer in kernels if not layer.is_reformat]
    return GroupAudit(
        stage=stage,
        role=role,
        layers=sum_by_precision((name_precision(layer), 1) for layer in computing),
        reformats=len(kernels) - len(computing),
        macs=sum_by_precision((p.precision, p.node.macs) for p in products),
        weights=sum_by_precision((p.precision, p.node.weights) for p in products),
    )


def _describe_not_int8(product: Product) -> NotInt8:
    layer = product.layer.name if product.layer else ""
    return NotInt8(product.node.name, layer, product.precision, product.node.macs)
