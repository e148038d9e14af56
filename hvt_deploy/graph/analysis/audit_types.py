"""What a graph asks for, node by node, and what an engine makes of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NodeFacts:
    """One node of a graph. `macs` are for one image, `weights` the elements of its constant factor;
    0 if it has none.

    `quantized`: both factors of its product come from Q/DQ. `attention`: a softmax whose result
    weighs values.
    """

    name: str
    stage: str
    role: str
    macs: int = 0
    weights: int = 0
    quantized: bool = False
    attention: bool = False


@dataclass(frozen=True)
class ByPrecision:
    """A number of layers, MACs or weights for each precision that they run in."""

    int8: int = 0
    fp16: int = 0
    fp32: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """Of all precisions."""
        return self.int8 + self.fp16 + self.fp32 + self.other


@dataclass(frozen=True)
class GroupAudit:
    """The kernels of a stage and role: `layers` compute, `reformats` only move or convert data."""

    stage: str
    role: str
    layers: ByPrecision
    reformats: int
    macs: ByPrecision
    weights: ByPrecision


@dataclass(frozen=True)
class NotInt8:
    """A node with Q/DQ in the graph that the engine computes in `precision`, in `layer` ("" where
    none names it).
    """

    node: str
    layer: str
    precision: str
    macs: int


@dataclass(frozen=True)
class EngineAudit:
    """One inference in the engine's first profile: `kernels` are its `layers` and `reformats`.

    MACs and weights are those of products (Conv, MatMul, Gemm). `quantized_macs` carry Q/DQ in the
    graph, `quantized_int8_macs` of them run as INT8; `not_int8` are the others. `fused_attention`
    of `attention_blocks` are one kernel each. `groups` are the same numbers by stage and role, as
    far as kernels name nodes.
    """

    kernels: int
    layers: ByPrecision
    reformats: int
    macs: ByPrecision
    weights: ByPrecision
    fused_attention: int
    attention_blocks: int
    quantized_macs: int
    quantized_int8_macs: int
    not_int8: tuple[NotInt8, ...]
    groups: tuple[GroupAudit, ...]

    @property
    def int8_share(self) -> float:
        """Of the MACs that carry Q/DQ in the graph, the share that runs as INT8; 0 where none
        carries Q/DQ.
        """
        return self.quantized_int8_macs / self.quantized_macs if self.quantized_macs else 0.0

    @property
    def int8_share_of_all(self) -> float:
        """Of all MACs, the share that runs as INT8; 0 where they are not known."""
        return self.macs.int8 / self.macs.total if self.macs.total else 0.0
