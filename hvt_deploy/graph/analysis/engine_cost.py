"""The cost of one inference of an engine: kernels, memory traffic and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hvt_deploy.core.types import Skipped
from hvt_deploy.graph.analysis.engine_audit import ByPrecision


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


@dataclass(frozen=True)
class ProfileCost:
    """The cost of an engine at the batch size that one of its profiles is tuned for."""

    batch: int
    """The batch size: OPT of the profile."""
    own: EngineCost | Skipped
    """The cost of the engine; Skipped where it cannot be counted."""
    fp16: EngineCost | Skipped | None = None
    """That of the FP16 engine of the same model, profile and target; None: not an INT8 engine."""
    note: str = ""
    """How it was counted, where not in the list of the engine's own layers."""

    @property
    def traffic_ratio(self) -> float | None:
        """Bytes of activations and weights over those of FP16; None where one is not known."""
        if isinstance(self.own, EngineCost) and isinstance(self.fp16, EngineCost):
            return self.own.whole.traffic_bytes / self.fp16.whole.traffic_bytes
        return None

    @property
    def kernel_ratio(self) -> float | None:
        """Kernels over those of FP16; None where one is not known."""
        if isinstance(self.own, EngineCost) and isinstance(self.fp16, EngineCost):
            return self.own.whole.kernels / self.fp16.whole.kernels
        return None
