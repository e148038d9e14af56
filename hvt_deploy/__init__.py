"""Hierarchical vision transformers from a PyTorch checkpoint to a verified TensorRT engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvt_deploy.runtime.classifier import Classifier

__version__ = "0.1.0"
__all__ = ["Classifier", "__version__"]


def __getattr__(name: str) -> object:
    """`Classifier` is imported when it is asked for: the command line must start without numpy (PEP
    562).
    """
    if name == "Classifier":
        from hvt_deploy.runtime.classifier import Classifier

        return Classifier
    raise AttributeError(f"module 'hvt_deploy' has no attribute '{name}'")
