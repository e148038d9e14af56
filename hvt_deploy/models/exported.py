"""From what an export recorded back to the spec and the reference form with its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hvt_deploy.core.model_options import ModelOptions
from hvt_deploy.core.run_config import RunConfig
from hvt_deploy.core.tensors import Signature
from hvt_deploy.core.workspace import Manifest
from hvt_deploy.models.registry import get_spec
from hvt_deploy.models.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn


def spec_of_config(config: RunConfig) -> ModelSpec:
    """The spec of a configuration's model. Raises BadInput as `get_spec` does."""
    return get_spec(config.model, config.preprocessing.image_size, config.options)


def spec_of_manifest(manifest: Manifest) -> ModelSpec:
    """The spec of an exported model. Raises BadInput as `get_spec` does."""
    return get_spec(manifest.model, manifest.signature.image_size, manifest.config.options)


def load_exported(model: str, signature: Signature, options: ModelOptions, path: Path) -> nn.Module:
    """The reference form of an exported model: images (B, 3, H, W) to logits (B, K).

    `path` is its stored weights, which stay mapped. Raises BadInput for weights that do not fit,
    MissingEnvironment without PyTorch.
    """
    from hvt_deploy.models.weights.load import load_model

    return load_model(get_spec(model, signature.image_size, options), path, signature.num_classes)[
        0
    ]
