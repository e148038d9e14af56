"""What to do about the messages of TensorRT's parser and builder that are known."""

from __future__ import annotations

import re

_HINTS = (
    (
        r"Plugin not found",
        "TensorRT has no such operator, and plugins are not used here. Rewrite that part of the model.",
    ),
    (
        r"UNSUPPORTED_NODE",
        "TensorRT does not support this operator. Rewrite that part of the model, or run it in ONNX Runtime.",
    ),
    (
        r"must have same input types|types? .*mismatch",
        "Engines are strongly typed, and the graph mixes types here. Make it again: `hvt-deploy quantize`.",
    ),
    (
        r"[Zz]ero point",
        "TensorRT takes signed, symmetric INT8 only (zero point 0). Give it the file made for engines, not the CPU's.",
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
        "The file is no ONNX file, or it was cut off. Run `hvt-deploy export` again.",
    ),
    (
        r"Turing .*FP32 GEMM",
        "For compute capability 7.5 TensorRT-RTX has no FP32 matrix products: build with --fp16, or leave 7.5 out.",
    ),
    (
        r"not supported by a dedicated kernel|is_decomposable",
        "TensorRT has no kernel for this operator in this type. Export with --opset 17 to 22.",
    ),
    (
        r"[Oo]ut ?[Oo]f ?[Mm]emory|insufficient memory",
        "The GPU's memory is full: free some, or lower --workspace-mib.",
    ),
    (
        r"cudaError 35|driver version is insufficient",
        "There is no NVIDIA driver here, or it is too old.",
    ),
)


def hint_for(message: str) -> str:
    """The hint for the first known part of a message."""
    for pattern, hint in _HINTS:
        if re.search(pattern, message):
            return hint
    return "The message is the library's own. `hvt-deploy export --simplifier onnxslim` gives another form of the graph."
