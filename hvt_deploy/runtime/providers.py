"""The execution providers of ONNX Runtime that really start on this machine."""

from __future__ import annotations

import contextlib
import sys

import onnx
import onnxruntime

from hvt_deploy.runtime.failures import read_first_line
from hvt_deploy.runtime.tensorrt_provider import TENSORRT_PROVIDER

CUDA_PROVIDER = "CUDAExecutionProvider"


def working_providers() -> tuple[str, ...]:
    """The providers that really start here: onnxruntime-gpu lists CUDA and TensorRT on machines
    without them.
    """
    return tuple(
        name for name in onnxruntime.get_available_providers() if not why_not_started(name)
    )


def why_not_started(provider: str, ordinal: int = 0) -> str:
    """Why a session on this provider, on the GPU of this number, cannot be opened; "" where it can.

    A provider that fails to start is replaced by the CPU's without an error.
    """
    available = onnxruntime.get_available_providers()
    if provider not in available:
        return f"this ONNX Runtime has only {', '.join(available)}"
    value = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])], "probe", value[:1], value[1:]
    )
    opset = onnx.helper.make_opsetid("", 17)
    probe = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    on_gpu = provider in (CUDA_PROVIDER, TENSORRT_PROVIDER)
    if on_gpu:
        load_cuda_libraries()
    choice = (provider, {"device_id": ordinal}) if on_gpu else provider
    try:
        session = onnxruntime.InferenceSession(
            probe, options, providers=[choice], enable_fallback=0
        )
    except Exception as error:
        return read_first_line(error)
    if provider in session.get_providers():
        return ""
    return "it does not start (CUDA or cuDNN of the wrong version, or no GPU)"


def load_cuda_libraries() -> None:
    """Load CUDA and cuDNN of the installed packages, as the CUDA provider needs them."""
    with contextlib.redirect_stdout(sys.stderr):  # it prints what it does not find
        onnxruntime.preload_dlls()
