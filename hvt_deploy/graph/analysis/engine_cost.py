"""The cost of one inference of an engine: kernels, memory traffic and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hvt_deploy.graph.analysis.engine_audit import ByPrecision

MIB = 2**20


def _none() -> Mapping[str, int]:
    return {}


@dataclass(frozen=True)
class KernelCost:
    """The cost of some kernels; bytes are by data type: int8, fp16, fp32, int64 …"""

    kernels: int = 0
    """Number of kernels."""
    moves_only: int = 0
    """Those that only move, reorder or convert data."""
    read: Mapping[str, int] = field(default_factory=_none)
    """Bytes of activations that they read."""
    written: Mapping[str, int] = field(default_factory=_none)
    """Bytes of activations that they write."""
    weights: Mapping[str, int] = field(default_factory=_none)
    """Bytes of weights and other constants that they read."""
    macs: ByPrecision | None = None
    """Multiply-accumulates of the products by the precision they run in; None: not known."""

    @property
    def activation_bytes(self) -> int:
        """Bytes of activations read and written."""
        return sum(self.read.values()) + sum(self.written.values())

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights read."""
        return sum(self.weights.values())

    @property
    def traffic_bytes(self) -> int:
        """Bytes of activations and weights."""
        return self.activation_bytes + self.weight_bytes


@dataclass(frozen=True)
class GroupCost:
    """The kernels of one stage and role."""

    stage: str
    """The stage, as `roles.stage_of` gives it; "" for kernels that name no node of the graph."""
    role: str
    """The role, as `roles.find_role` gives it."""
    cost: KernelCost
    """What they cost."""


@dataclass(frozen=True)
class EngineCost:
    """The cost of one inference at one batch size, read from a list of layers."""

    batch: int
    """The batch size."""
    whole: KernelCost
    """The cost of all kernels."""
    groups: tuple[GroupCost, ...]
    """The same by stage and role, as far as kernels name nodes."""
