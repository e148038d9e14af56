"""Which kernel computes which node of the graph, and the stage and role that it belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

from hvt_deploy.graph.analysis.engine_audit import ByPrecision
from hvt_deploy.graph.analysis.node_facts import NodeFacts
from hvt_deploy.runtime.tensorrt.layer_list import EngineLayer

# A stage and a role.
Group = tuple[str, str]
# Of kernels that name no node of the graph.
_UNNAMED: Group = ("", "other")
_PRECISION_NAMES = {"Int8": "int8", "Half": "fp16", "Float": "fp32"}
_NARROWEST_FIRST = ("Int8", "Half", "Float")


@dataclass(frozen=True)
class Product:
    """A Conv, MatMul or Gemm of the graph.

    Attributes:
        node: the node's facts.
        layer: the kernel that computes it, None where no kernel names it.
    """

    node: NodeFacts
    layer: EngineLayer | None

    @property
    def precision(self) -> str:
        """The precision that it is computed in, as a field of ByPrecision."""
        return name_precision(self.layer) if self.layer else "other"

    @property
    def group(self) -> Group:
        """Its stage and role."""
        return self.node.stage, self.node.role


def find_products(kernels: Sequence[EngineLayer], nodes: Sequence[NodeFacts]) -> list[Product]:
    """The products of the graph, each with the kernel that computes it."""
    return [Product(node, _find_layer(node.name, kernels)) for node in nodes if node.macs]


def _find_groups(
    kernels: Sequence[EngineLayer], products: Sequence[Product], nodes: Sequence[NodeFacts]
) -> list[Group]:
    """The stage and role of each kernel.

    A kernel belongs to the largest product that it computes, else to the largest that it names (the
    kernel that adds a bias to its result), else to the first node that it names, a Q/DQ node only
    where it names no other.
    """
    known = {node.name: ((-node.macs, node.is_qdq), (node.stage, node.role)) for node in nodes}
    largest_last = sorted(products, key=lambda product: product.node.macs)
    main = {product.layer.name: product.group for product in largest_last if product.layer}

    def find_group(layer: EngineLayer) -> Group:
        named = [known[name] for name in layer.onnx_nodes if name in known]
        return (
            main.get(layer.name) or min(named, key=itemgetter(0), default=((0, False), _UNNAMED))[1]
        )

    return [find_group(layer) for layer in kernels]


def split_by_group(
    kernels: Sequence[EngineLayer], products: Sequence[Product], nodes: Sequence[NodeFacts]
) -> Iterator[tuple[Group, list[EngineLayer], list[Product]]]:
    """The kernels and products of each group that has any, in the order of the graph."""
    groups = _find_groups(kernels, products, nodes)
    computing_first = sorted(nodes, key=lambda node: node.is_qdq)
    for group in dict.fromkeys((*((n.stage, n.role) for n in computing_first), _UNNAMED)):
        own = [layer for layer, of in zip(kernels, groups, strict=True) if of == group]
        made = [product for product in products if product.group == group]
        if own or made:
            yield group, own, made


def sum_by_precision(counted: Iterable[tuple[str, int]]) -> ByPrecision:
    """The sum of the numbers of each precision."""
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


def name_precision(layer: EngineLayer) -> str:
    """The precision of a layer as a field of ByPrecision: int8, fp16, fp32, other."""
    return _PRECISION_NAMES.get(layer.precision, "other")
