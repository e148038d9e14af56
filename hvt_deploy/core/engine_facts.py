"""What `manifest.json` says of a TensorRT engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hvt_deploy.core.types import FlavourName, Precision


@dataclass(frozen=True)
class CostTotals:
    """The cost of one inference, read from a list of layers."""

    kernels: int
    """Number of kernels."""
    activation_bytes: int
    """Bytes of activations that they read and write."""
    weight_bytes: int
    """Bytes of weights that they read."""


@dataclass(frozen=True)
class CostFacts:
    """The cost of an engine at one batch size, next to that of FP16; None: not known."""

    batch: int
    """OPT of a profile."""
    own: CostTotals | None
    """The cost of the engine."""
    fp16: CostTotals | None
    """For an INT8 engine: that of the FP16 engine of the same model, profile and target."""


@dataclass(frozen=True)
class EngineFacts:
    """Of a TensorRT engine. Its passport, the file next to it, has its layers as well."""

    precision: Precision
    """The precision of the graph it was built from."""
    flavour: FlavourName
    """The library that runs it."""
    version: str
    """The version of that library."""
    compute_capabilities: tuple[str, ...]
    """The GPUs it runs on ("8.6")."""
    gpu: str
    """The GPU it was built on, "" for one built ahead of time."""
    profiles: tuple[tuple[int, int, int], ...]
    """MIN, OPT, MAX batch sizes; empty for a fixed batch size."""
    build_s: float
    """How long the build took, seconds."""
    workspace_mib: int = 0
    """Memory that TensorRT was allowed for tactics, MiB; 0: not recorded."""
    costs: tuple[CostFacts, ...] = ()
    """For each profile; the passport has them by stage and role."""
    kind: Literal["engine"] = "engine"
    """Discriminator of the artifact kind in JSON."""
