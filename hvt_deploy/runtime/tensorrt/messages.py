"""The messages of TensorRT's logger, parser and builder, and hints for those that are known."""

from __future__ import annotations

import re
from collections.abc import Callable

from hvt_deploy.runtime.tensorrt.api import Native, TensorRT

_OTHER_OPSETS = "Export with --opset 17 to 22."
_HINTS = (
    (
        r"Plugin not found",
        "TensorRT has no such operator, and plugins are not used here. "
        "Rewrite that part of the model.",
    ),
    (
        r"UNSUPPORTED_NODE",
        "TensorRT does not support this operator. "
        "Rewrite that part of the model, or run it in ONNX Runtime.",
    ),
    (
        r"must have same input types|types? .*mismatch",
        "Engines are strongly typed, and the graph mixes types here. "
        "Make it again: `hvt-deploy quantize`.",
    ),
    (
        r"[Zz]ero point",
        "TensorRT takes signed, symmetric INT8 only (zero point 0). "
        "Build from the INT8 graph made for engines, not from its CPU variant.",
    ),
    (
        r"no optimization profile has been defined",
        "The batch is dynamic: give --profile MIN,OPT,MAX.",
    ),
    (
        r"missing dimensions in profile",
        "The profile lacks an input of the graph: give one for every dynamic input.",
    ),
    (
        r"Dimension mismatch for .*profile",
        "The profile's shapes are not the graph's. Export and build again.",
    ),
    (r"satisfy MIN ?<= ?OPT ?<= ?MAX", "Give --profile MIN,OPT,MAX in that order."),
    (
        r"MODEL_DESERIALIZE_FAILED",
        "The file is not ONNX, or it was cut off. Run `hvt-deploy export` again.",
    ),
    (
        r"Turing .*FP32 GEMM",
        "For compute capability 7.5 TensorRT-RTX has no FP32 matrix products: "
        "build with --fp16, or leave 7.5 out.",
    ),
    (
        r"not supported by a dedicated kernel|is_decomposable",
        f"TensorRT has no kernel for this operator in this type. {_OTHER_OPSETS}",
    ),
    (
        r"[Oo]ut ?[Oo]f ?[Mm]emory|insufficient memory",
        "The GPU's memory is full: free some, or lower workspace_mib in the file of --config.",
    ),
    (
        r"cudaError 35|driver version is insufficient",
        "There is no NVIDIA driver here, or it is too old.",
    ),
)
_UNKNOWN = (
    "This message comes from the library. "
    "`hvt-deploy export --simplifier onnxslim` gives a different graph to try."
)
CRASH_HINT = (
    f"The library crashed on this graph. Opset 23 and later are known for it. {_OTHER_OPSETS}"
)


def find_hint(message: str) -> str:
    """The hint for the first known part of a message."""
    for pattern, hint in _HINTS:
        if re.search(pattern, message):
            return hint
    return _UNKNOWN


def make_logger(trt: TensorRT, sink: Callable[[bool, bool, str], None]) -> Native:
    """A logger that gives `sink` every message with (is_error, is_warning, text)."""

    def log(_: object, severity: object, message: str) -> None:
        is_error = severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
        sink(is_error, severity == trt.ILogger.WARNING, message)

    return type("Log", (trt.ILogger,), {"log": log})()


def is_noise(message: str) -> bool:
    """Whether a message only says that this machine has no GPU: such lines follow every error on
    a machine without one.
    """
    return "checkMacros" in message and "cudaError 35" in message
