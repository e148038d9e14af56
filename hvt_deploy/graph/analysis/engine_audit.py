"""The audit of an engine against the graph it was built from: kernels and MACs by precision."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ByPrecision:
    """A number of layers, MACs or weights for each precision that they run in."""

    int8: int = 0
    """Those that run in INT8."""
    fp16: int = 0
    """Those that run in FP16."""
    fp32: int = 0
    """Those that run in FP32."""
    other: int = 0
    """Those of another or an unknown precision."""

    @property
    def total(self) -> int:
        """The sum over all precisions."""
        return self.int8 + self.fp16 + self.fp32 + self.other


@dataclass(frozen=True)
class GroupAudit:
    """The kernels of one stage and role."""

    stage: str
    """The stage, as `roles.stage_of` gives it; "" for kernels that name no node of the graph."""
    role: str
    """The role, as `roles.role_of` gives it."""
    layers: ByPrecision
    """Number of kernels that compute."""
    reformats: int
    """Number of kernels that only move or convert data."""
    macs: ByPrecision
    """Multiply-accumulates of the products, for one image."""
    weights: ByPrecision
    """Number of elements in the constant factors of the products."""


@dataclass(frozen=True)
class NotInt8:
    """A node with Q/DQ in the graph that the engine does not compute in INT8."""

    node: str
    """The name of the node."""
    layer: str
    """The name of the layer that computes it; "" if no layer names the node."""
    precision: str
    """The precision of that layer: fp16, fp32 or other."""
    macs: int
    """Multiply-accumulates of the node, for one image."""


@dataclass(frozen=True)
class EngineAudit:
    """One inference of an engine. MACs and weights are those of products (Conv, MatMul, Gemm)."""

    kernels: int
    """Number of kernels: layers and reformats."""
    layers: ByPrecision
    """Number of kernels that compute."""
    reformats: int
    """Number of kernels that only move or convert data."""
    macs: ByPrecision
    """Multiply-accumulates, for one image."""
    weights: ByPrecision
    """Number of elements in the constant factors."""
    fused_attention: int
    """Number of attention blocks that are one fused kernel."""
    attention_blocks: int
    """Number of attention blocks in the graph."""
    quantized_macs: int
    """MACs of the nodes with Q/DQ in the graph."""
    quantized_int8_macs: int
    """Those of `quantized_macs` that run in INT8."""
    not_int8: tuple[NotInt8, ...]
    """The nodes with Q/DQ that do not run in INT8."""
    groups: tuple[GroupAudit, ...]
    """The same numbers by stage and role, as far as kernels name nodes."""
    int8_attention: int = 0
    """Those of `fused_attention` that read and write INT8."""

    @property
    def int8_share(self) -> float:
        """The share of the MACs with Q/DQ in the graph that runs in INT8; 0 if none has Q/DQ."""
        return self.quantized_int8_macs / self.quantized_macs if self.quantized_macs else 0.0

    @property
    def int8_share_of_all(self) -> float:
        """The share of all MACs that runs in INT8; 0 if they are not known."""
        return self.macs.int8 / self.macs.total if self.macs.total else 0.0
