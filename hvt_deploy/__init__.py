"""Hierarchical vision transformers from a PyTorch checkpoint to a verified TensorRT engine."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvt_deploy.commands.api import export
    from hvt_deploy.commands.api import open as open
    from hvt_deploy.commands.exported_model import Model
    from hvt_deploy.core.errors import (
        BadInput,
        CheckFailed,
        HvtDeployError,
        HvtDeployWarning,
        MissingEnvironment,
        ToolFailure,
    )
    from hvt_deploy.runtime.classifier import Classifier

__version__ = "0.1.0"
# Without `open`, so that `from hvt_deploy import *` leaves Python's own.
__all__ = [
    "BadInput",
    "CheckFailed",
    "Classifier",
    "HvtDeployError",
    "HvtDeployWarning",
    "MissingEnvironment",
    "Model",
    "ToolFailure",
    "__version__",
    "export",
]

_HOMES = {
    "export": "commands.api",
    "open": "commands.api",
    "Model": "commands.exported_model",
    "Classifier": "runtime.classifier",
}


def __getattr__(name: str) -> object:
    """A public name is imported when it is asked for: the command line must start without numpy
    (PEP 562).
    """
    if name not in __dir__():
        raise AttributeError(f"module 'hvt_deploy' has no attribute '{name}'")
    home = import_module(f"hvt_deploy.{_HOMES.get(name, 'core.errors')}")
    return getattr(home, name)  # pyright: ignore[reportAny]


def __dir__() -> list[str]:
    return [*__all__, "open"]
