"""What a node does in the network, read from its module path: quantization is decided by role."""

from __future__ import annotations

import re
from typing import Literal

Role = Literal[
    "stem", "conv", "depthwise", "downsample", "resample", "qkv", "attention score", "attention value",
    "local position", "carrier token", "proj", "fc1", "fc2", "head", "residual add", "softmax", "norm", "other",
]  # fmt: skip

# First match wins: module path, operators, role.
_RULES: tuple[tuple[str, str, Role], ...] = (
    (r"", "LayerNormalization BatchNormalization", "norm"),
    (r"", "Softmax", "softmax"),
    (r"(^|\.)(patch_embed|stem|conv_stem)(\.|$)", "Conv MatMul Gemm", "stem"),
    (r"(^|\.)score$", "MatMul", "attention score"),
    (r"(^|\.)value$", "MatMul", "attention value"),
    (r"(^|\.)(qkv|kv|q|k|v)$", "MatMul Gemm Conv", "qkv"),
    (r"(^|\.)(get_v|lepe)$", "Conv", "local position"),
    (r"(^|\.)global_tokenizer(\.|$)", "Conv", "carrier token"),
    (r"resample", "MatMul Gemm", "resample"),
    (r"(^|\.)(pools?|downsample|decoders)(\.|$)", "Conv MatMul Gemm", "downsample"),
    (r"(^|\.)(proj|out_proj)$", "MatMul Gemm Conv", "proj"),
    (r"(^|\.)fc1$", "MatMul Gemm Conv", "fc1"),
    (r"(^|\.)fc2$", "MatMul Gemm Conv", "fc2"),
    (r"(^|\.)(head|classifier)(\.|$)", "MatMul Gemm Conv", "head"),
    (r"(^|\.)(blocks|layers)\.\d+$", "Add", "residual add"),
)
# Depthwise convolutions stay out: few multiplications, and a kernel more for each Q/DQ around them.
DEFAULT_INT8_ROLES: tuple[Role, ...] = ("stem", "conv", "downsample", "qkv", "proj", "fc1", "fc2", "head")


def role_of(node_name: str, op_type: str, *, grouped: bool = False) -> Role:
    """The role of the node called `<module path>/<op>`; `grouped` tells a depthwise convolution."""
    path = node_name.rpartition("/")[0]
    for pattern, ops, role in _RULES:
        if op_type in ops.split() and re.search(pattern, path):
            return role
    if op_type == "MatMul" and re.search(r"(^|\.)attn$", path):
        return "attention value" if node_name.endswith("_1") else "attention score"
    if op_type == "Conv":
        return "depthwise" if grouped else "conv"
    return "other"
