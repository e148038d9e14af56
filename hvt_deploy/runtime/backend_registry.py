"""The runtimes by name. Each opener imports its library only when it is called."""

from __future__ import annotations

from collections.abc import Callable

from hvt_deploy.core.environment import require
from hvt_deploy.core.types import Runtime
from hvt_deploy.runtime.base import Backend, BackendRequest, PixelsBackend
from hvt_deploy.runtime.fixed_batch import FixedBatchBackend


def open_backend(request: BackendRequest) -> Backend:
    """Open an artifact on its runtime; the backend takes any number of images.

    Raises MissingEnvironment where the runtime's package or device is missing, BadInput for a
    broken artifact.
    """
    backend = _OPENERS[request.variant.runtime](request)
    fixed = request.signature.batch
    if fixed is None and request.variant.form == "compiled":
        fixed = max(request.timed_batches)
    return backend if fixed is None else FixedBatchBackend(backend, fixed)


def open_pixels_backend(request: BackendRequest) -> PixelsBackend:
    """Open an ONNX file that preprocesses, in ONNX Runtime. Raises as `open_backend` does."""
    require("onnxruntime", extra="cpu")
    from hvt_deploy.runtime.ort_pixels import OrtPixelsBackend

    return OrtPixelsBackend(request)


def _open_pytorch(request: BackendRequest) -> Backend:
    require("torch", extra="export")
    from hvt_deploy.models.exported import load_exported
    from hvt_deploy.models.registry import to_deployed
    from hvt_deploy.runtime.pytorch import PyTorchBackend

    module = load_exported(request.model, request.signature, request.options, request.path)
    if request.variant.form in ("deployed", "compiled"):
        module = to_deployed(module)
    return PyTorchBackend(request.variant, module, request.threads, request.ordinal)


def _open_ort(request: BackendRequest) -> Backend:
    require("onnxruntime", extra="gpu" if request.variant.device == "cuda" else "cpu")
    from hvt_deploy.runtime.ort import OrtBackend

    return OrtBackend(request)


def _open_trt(request: BackendRequest) -> Backend:
    from hvt_deploy.runtime.tensorrt.backend import TrtBackend

    return TrtBackend(request)


_OPENERS: dict[Runtime, Callable[[BackendRequest], Backend]] = {
    "pytorch": _open_pytorch,
    "ort": _open_ort,
    "ort-trt": _open_ort,
    "trt": _open_trt,
}
