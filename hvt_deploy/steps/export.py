"""`export`: checkpoint -> deployed form -> ONNX with a proven contract and parity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hvt_deploy.measure.parity import Parity
from hvt_deploy.workspace import Manifest

if TYPE_CHECKING:
    from hvt_deploy.graph.contract import ContractReport

# Largest logit difference that an FP32 graph may show, relative to the largest logit.
FP32_PARITY = 2e-5
PROVED_BATCHES = (1, 2, 3, 5)


@dataclass(frozen=True)
class Exported:
    """What `export` made. `parity` is the worst over every batch size tried."""

    slug: str
    path: Path
    manifest: Manifest
    parity: Parity
    contract: ContractReport
