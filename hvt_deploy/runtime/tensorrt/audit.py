"""Audit an engine: attribute its layers to the nodes of the graph it was built from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hvt_deploy.graph.analysis.engine_audit import (
    ByPrecision,
    EngineAudit,
    GroupAudit,
    NotInt8,
)
from hvt_deploy.graph.analysis.node_facts import NodeFacts
from hvt_deploy.runtime.tensorrt.layer_list import EngineLayer

FUSED_ATTENTION = "_gemm_mha_v2"
_PRECISION_NAMES = {"Int8": "int8", "Half": "fp16", "Float": "fp32"}
_NARROWEST_FIRST = ("Int8", "Half", "Float")


@dataclass(frozen=True)
class _Product:
    """A Conv, MatMul or Gemm of the graph.

    Attributes:
        node: the node's facts.
        layer: the kernel that computes it, None where no kernel names it.
    """

    node: NodeFacts
    layer: EngineLayer | None

    @property
    def precision(self) -> str:
        return _name_precision(self.layer) if self.layer else "other"


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
    products = [_Product(node, _find_layer(node.name, kernels)) for node in nodes if node.macs]
    quantized = [product for product in products if product.node.quantized]
    int8 = [product for product in quantized if product.precision == "int8"]
    whole = _count_group("", "", kernels, products)
    return EngineAudit(
        kernels=len(kernels),
        layers=whole.layers,
        reformats=whole.reformats,
        macs=whole.macs,
        weights=whole.weights,
        fused_attention=sum(FUSED_ATTENTION in layer.name for layer in kernels),
        attention_blocks=sum(node.attention for node in nodes),
        quantized_macs=sum(product.node.macs for product in quantized),
        quantized_int8_macs=sum(product.node.macs for product in int8),
        not_int8=tuple(_describe_not_int8(product) for product in quantized if product not in int8),
        groups=_count_groups(kernels, products, nodes),
    )


def _count_groups(
    kernels: Sequence[EngineLayer], products: Sequence[_Product], nodes: Sequence[NodeFacts]
) -> tuple[GroupAudit, ...]:
    """The counts of each stage and role, in the order of the graph.

    A kernel belongs to the largest product that it computes, else to the first node that it names.
    """
    known = {node.name: (node.stage, node.role) for node in nodes}
    largest_last = sorted(products, key=lambda product: product.node.macs)
    main = {p.layer.name: (p.node.stage, p.node.role) for p in largest_last if p.layer}
    unnamed = ("", "other")

    def group_of(layer: EngineLayer) -> tuple[str, str]:
        return main.get(layer.name) or next(
            (known[n] for n in layer.onnx_nodes if n in known), unnamed
        )

    groups = [group_of(layer) for layer in kernels]
    found = {(p.node.stage, p.node.role) for p in products} | set(groups)
    return tuple(
        _count_group(
            *group,
            [layer for layer, of in zip(kernels, groups, strict=True) if of == group],
            [p for p in products if (p.node.stage, p.node.role) == group],
        )
        for group in dict.fromkeys((*known.values(), unnamed))
        if group in found
    )


def _count_group(
    stage: str, role: str, kernels: Sequence[EngineLayer], products: Sequence[_Product]
) -> GroupAudit:
    computing = [layer for layer in kernels if not layer.is_reformat]
    return GroupAudit(
        stage=stage,
        role=role,
        layers=_sum_by_precision((_name_precision(layer), 1) for layer in computing),
        reformats=len(kernels) - len(computing),
        macs=_sum_by_precision((p.precision, p.node.macs) for p in products),
        weights=_sum_by_precision((p.precision, p.node.weights) for p in products),
    )


def _sum_by_precision(counted: Iterable[tuple[str, int]]) -> ByPrecision:
    totals: Counter[str] = Counter()
    for precision, count in counted:
        totals[precision] += count
    return ByPrecision(**totals)


def _find_layer(node: str, kernels: Sequence[EngineLayer]) -> EngineLayer | None:
    """The kernel that computes a product: of those that name it the likeliest, and of these the
    widest.
    """
    naming = [layer for layer in kernels if node in layer.onnx_nodes]
    return min(
        naming, key=lambda layer: (_rank_unlikeliness(layer), -_rank_width(layer)), default=None
    )


def _rank_unlikeliness(layer: EngineLayer) -> int:
    """Kernels that scale or add to a product's result name it too; very small products are written
    out as such.
    """
    return 2 if layer.is_reformat else 0 if layer.is_product else 1


def _rank_width(layer: EngineLayer) -> int:
    known = layer.precision in _NARROWEST_FIRST
    return _NARROWEST_FIRST.index(layer.precision) if known else len(_NARROWEST_FIRST)


def _name_precision(layer: EngineLayer) -> str:
    return _PRECISION_NAMES.get(layer.precision, "other")


def _describe_not_int8(product: _Product) -> NotInt8:
    layer = product.layer.name if product.layer else ""
    return NotInt8(product.node.name, layer, product.precision, product.node.macs)
