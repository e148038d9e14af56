"""The role and the stage of a node, read from its module path: they decide what is quantized."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

import onnx

from hvt_deploy.graph.queries import PRODUCT_OPS

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

_PRODUCT_PATTERN = " ".join(PRODUCT_OPS)
# A Linear is its product and the Add of its bias. timm wraps some convolutions: `qkv.conv`.
_LINEAR = f"{_PRODUCT_PATTERN} Add"
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
    (r"(^|\.)residual$", "Add", "residual add"),
    (r"(^|\.)position_bias$", "Add", "position bias"),
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
_NUMBERED = (
    "transformers|pools|levels|stages|layers|convlayers|multiresolution_conv"
    # torchvision's and transformers' names
    "|features|layer|encoder_layer"
)
_STAGE = re.compile(rf"(?:^|\.)(?:{_NUMBERED})[._](\d+)(?:\.|$)")
_BLOCK_NUMBER = re.compile(r"(?:^|\.)blocks\.(\d+)(?:\.|$)")
_JOINED = re.compile(r"(?:^|\.)(?:layer|stage)(\d+)\.")  # of a ResNet
# A list of blocks that has a name of the user's own.
_LISTED = re.compile(r"^(?:\w+\.)?((?!(?:heads?|classifier|fc)\.)[A-Za-z_]\w*\.\d+)\.")
# The Linears of a transformer block.
LINEAR_ROLES: tuple[Role, ...] = ("carrier token", "qkv", "proj", "fc1", "fc2")
# All products that are worth INT8. Depthwise convolutions are left out: few multiplications, and an
# extra kernel for each Q/DQ.
PRODUCT_ROLES: tuple[Role, ...] = ("stem", "conv", "downsample", *LINEAR_ROLES, "head")


def find_role(node: onnx.NodeProto, constants: Collection[str]) -> Role:
    """The role of a node named `<module path>/<op>`; `constants` are the initializers' names."""
    path, _, op = node.name.rpartition("/")
    constant = any(name in constants for name in node.input)
    if _is_grouped(node) and not re.search(r"(^|\.)(get_v|lepe)$", path):
        return "depthwise"
    for pattern, ops, role in _RULES:
        if node.op_type in ops.split() and re.search(pattern, path):
            if role == "stem" and node.op_type == "Add" and not constant:
                break  # a residual inside the stem, not the bias of its product
            return role
    if node.op_type == "MatMul" and re.search(_ATTENTION, path):
        return "attention value" if op.endswith("_1") else "attention score"
    if node.op_type == "Add":
        return _role_of_add(path, constant)
    return "conv" if node.op_type == "Conv" else "other"


def _is_grouped(node: onnx.NodeProto) -> bool:
    """Whether it is a grouped convolution; all of these are treated as depthwise ones."""
    return node.op_type == "Conv" and any(a.name == "group" and a.i > 1 for a in node.attribute)


def _role_of_add(path: str, constant: bool) -> Role:
    """A constant added to scores or tokens encodes positions; an Add of two activations in a block
    is its residual.
    """
    if re.search(_ATTENTION, path):
        return "position bias" if constant else "local position"
    if constant and (path == "model" or re.search(_BLOCK, path)):
        return "position bias"
    return "residual add" if re.search(_BLOCK, path) else "other"


def stage_of(node_name: str) -> str:
    """The stage of a node: its number, "stem" before the first, "head" after the last.

    In a network without stages (HVT, ViT) each block is one; a list of a user's own network has its
    name: `body.3`.
    """
    path = node_name.rpartition("/")[0]
    numbered = _STAGE.search(path) or _BLOCK_NUMBER.search(path) or _JOINED.search(path)
    if numbered:
        return numbered.group(1)
    if re.search(r"(^|\.)(patch_embed|stem|conv_stem)(\.|$)", path):
        return "stem"
    if listed := _LISTED.search(path):
        return listed.group(1)
    return "stem" if re.search(r"(^|\.)model(\.|$)", path) else "head"


def find_group(node: onnx.NodeProto, constants: Collection[str]) -> str:
    """The unit that is quantized or not as a whole: "<stage>/<role>"."""
    return f"{stage_of(node.name)}/{find_role(node, constants)}"
