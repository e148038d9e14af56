"""What a node does in the network and in which stage, read from its module path: quantization is
decided by these.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

import onnx

Role = Literal[
    "stem",
    "conv",
    "depthwise",
    "downsample",
    "resample",
    "qkv",
    "attention score",
    "attention value",
    "local position",
    "position bias",
    "carrier token",
    "squeeze excite",
    "proj",
    "fc1",
    "fc2",
    "head",
    "residual add",
    "activation",
    "softmax",
    "norm",
    "other",
]

_PRODUCTS = "Conv MatMul Gemm"
# A Linear is its product and the Add of its bias. timm wraps some convolutions: `qkv.conv`.
_LINEAR = f"{_PRODUCTS} Add"
_END = r"(\.(conv|norm|bn))?$"
# First match wins: module path, operators, role.
_RULES: tuple[tuple[str, str, Role], ...] = (
    (r"", "LayerNormalization BatchNormalization", "norm"),
    (r"", "Softmax", "softmax"),
    (r"(^|\.)act\d?$", "Add", "activation"),
    (r"(^|\.)(patch_embed|stem|conv_stem)(\.|$)", _LINEAR, "stem"),
    (r"(^|\.)(se|fc_channel)(\.|$)", _LINEAR, "squeeze excite"),
    (r"(^|\.)score$", "MatMul", "attention score"),
    (r"(^|\.)value$", "MatMul", "attention value"),
    (r"(^|\.)hat_(attn|mlp)\.", _LINEAR, "carrier token"),
    (r"(^|\.)propagation$", "Add", "carrier token"),
    (r"(^|\.)(qkv|kv|q|k|v)" + _END, _LINEAR, "qkv"),
    (r"(^|\.)(get_v|lepe)$", "Conv", "local position"),
    (r"resample", "MatMul Gemm", "resample"),
    (r"(^|\.)(pools?|downsample|decoders)(\.|$)", _LINEAR, "downsample"),
    (r"(^|\.)(proj|out_proj)" + _END, _LINEAR, "proj"),
    (r"(^|\.)fc1" + _END, _LINEAR, "fc1"),
    (r"(^|\.)fc2" + _END, _LINEAR, "fc2"),
    (r"(^|\.)(head|classifier)(\.|$)", _LINEAR, "head"),
)
_BLOCK = r"(^|\.)(blocks|layers)\.\d+$|_module$|(^|\.)stem\.res\d+$"
_ATTENTION = r"(^|\.)((hat_)?attn|context_module\.main)$"
_NUMBERED = "transformers|pools|levels|stages|layers|convlayers|multiresolution_conv"
_STAGE = re.compile(rf"(?:^|\.)(?:{_NUMBERED})\.(\d+)(?:\.|$)")
_BLOCK_NUMBER = re.compile(r"(?:^|\.)blocks\.(\d+)(?:\.|$)")
# Depthwise convolutions stay out: few multiplications, and a kernel more for each Q/DQ around them.
DEFAULT_INT8_ROLES: tuple[Role, ...] = (
    "stem",
    "conv",
    "downsample",
    "carrier token",
    "qkv",
    "proj",
    "fc1",
    "fc2",
    "head",
)


def role_of(node: onnx.NodeProto, constants: Collection[str]) -> Role:
    """The role of the node called `<module path>/<op>`; `constants` names the graph's initializers."""
    path, _, op = node.name.rpartition("/")
    constant = any(name in constants for name in node.input)
    if (
        node.op_type == "Conv"
        and _is_depthwise(node)
        and not re.search(r"(^|\.)(get_v|lepe)$", path)
    ):
        return "depthwise"
    for pattern, ops, role in _RULES:
        if node.op_type in ops.split() and re.search(pattern, path):
            if role == "stem" and node.op_type == "Add" and not constant:
                break
            return role
    if node.op_type == "MatMul" and re.search(_ATTENTION, path):
        return "attention value" if op.endswith("_1") else "attention score"
    if node.op_type == "Add":
        return _role_of_add(path, constant)
    return "conv" if node.op_type == "Conv" else "other"


def _is_depthwise(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)


def _role_of_add(path: str, constant: bool) -> Role:
    """A constant that is added to scores or tokens tells positions; two activations in a block are
    its residual.
    """
    if re.search(_ATTENTION, path):
        return "position bias" if constant else "local position"
    if constant and (path == "model" or re.search(_BLOCK, path)):
        return "position bias"
    return "residual add" if re.search(_BLOCK, path) else "other"


def stage_of(node_name: str) -> str:
    """The stage a node belongs to: its number, "stem" before the first, "head" behind the last.

    A network without stages (HVT, ViT) has a stage per block.
    """
    path = node_name.rpartition("/")[0]
    numbered = _STAGE.search(path) or _BLOCK_NUMBER.search(path)
    if numbered:
        return numbered.group(1)
    return "stem" if re.search(r"(^|\.)(patch_embed|stem|conv_stem|model)(\.|$)", path) else "head"


def group_of(node: onnx.NodeProto, constants: Collection[str]) -> str:
    """What is quantized or not as one: "<stage>/<role>"."""
    return f"{stage_of(node.name)}/{role_of(node, constants)}"
