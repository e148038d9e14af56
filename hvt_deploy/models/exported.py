"""From what an export recorded back to the spec and the reference form with its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.model_options import ModelOptions
from hvt_deploy.core.run_config import RunConfig
from hvt_deploy.core.tensors import Signature
from hvt_deploy.core.workspace import Manifest
from hvt_deploy.models.factory.spec import describe_changes
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
    naming the user's own code if that has changed, MissingEnvironment without PyTorch.
    """
    from hvt_deploy.models.weights.load import load_model

    spec = get_spec(model, signature.image_size, options)
    try:
        return load_model(spec, path, signature.num_classes)[0]
    except BadInput as error:
        if changes := find_changed_code(options):
            raise BadInput(
                f"{changes} {error.message}", f"Export it again: hvt-deploy export {model}"
            ) from None
        raise


def find_changed_code(options: ModelOptions) -> str:
    """A sentence that names the user's own files that have changed since the export, or ""."""
    return describe_changes(options.factory) if options.factory else ""
