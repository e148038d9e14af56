"""`export`: checkpoint -> deployed form -> ONNX with a proven contract and parity."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hvt_deploy.backends.base import BackendRequest
from hvt_deploy.class_names import ClassNames, class_names_for
from hvt_deploy.config import RunConfig
from hvt_deploy.datasets import find_images
from hvt_deploy.environment import check_free_disk, require, tool_versions
from hvt_deploy.errors import BadInput, CheckFailed
from hvt_deploy.images import load_images
from hvt_deploy.measure.parity import Parity, compare_logits, seeded_noise
from hvt_deploy.models.registry import create_model, get_spec, to_deployed
from hvt_deploy.tensors import ImagesNCHW, Signature
from hvt_deploy.ui import Ui
from hvt_deploy.workspace import Artifact, Manifest, ModelFolder, WeightsRecord, now

if TYPE_CHECKING:
    from hvt_deploy.backends.base import Backend
    from hvt_deploy.graph.contract import ContractReport
    from hvt_deploy.models.weights import ObtainedWeights

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
