"""The runtimes by name. Each opener imports its library only when it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from hvt_deploy.core.environment import require
from hvt_deploy.core.types import Runtime
from hvt_deploy.runtime.base import Backend, BackendRequest, PixelsBackend

if TYPE_CHECKING:
    from torch import nn

# Opens the reference form that a request names. Models are another shelf: the step that knows both
# gives this.
ModuleOpener: TypeAlias = "Callable[[BackendRequest], nn.Module]"


def open_backend(request: BackendRequest, open_module: ModuleOpener | None = None) -> Backend:
    """Open an artifact on its runtime. `open_module` is called for the runtime "pytorch" only,
    which needs it.

    Raises MissingEnvironment where the runtime's package or device is missing, BadInput for a
    broken artifact.
    """
    return _OPENERS[request.runtime](request, open_module)


def open_pixels_backend(request: BackendRequest) -> PixelsBackend:
    """Open an ONNX file that preprocesses, in ONNX Runtime. Raises as `open_backend` does."""
    require("onnxruntime", extra="cpu")
    from hvt_deploy.runtime.ort_pixels import OrtPixelsBackend

    return OrtPixelsBackend(request)


def _open_pytorch(request: BackendRequest, open_module: ModuleOpener | None) -> Backend:
    if open_module is None:
        raise ValueError("The runtime 'pytorch' needs `open_module`.")
    require("torch", extra="export")
    from hvt_deploy.runtime.pytorch import Form, PyTorchBackend

    form = Form(
        half=request.precision.startswith("fp16"), compiled=request.precision.endswith("-compiled")
    )
    return PyTorchBackend(request.name, open_module(request), request.device, request.threads, form)


def _open_ort(request: BackendRequest, _: ModuleOpener | None) -> Backend:
    require("onnxruntime", extra="gpu" if request.device == "cuda" else "cpu")
    from hvt_deploy.runtime.ort import OrtBackend

    return OrtBackend(request)


def _open_trt(request: BackendRequest, _: ModuleOpener | None) -> Backend:
    from hvt_deploy.runtime.tensorrt.backend import TrtBackend

    return TrtBackend(request)


_OPENERS: dict[Runtime, Callable[[BackendRequest, ModuleOpener | None], Backend]] = {
    "pytorch": _open_pytorch,
    "ort": _open_ort,
    "trt": _open_trt,
}
