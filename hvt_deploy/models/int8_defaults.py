"""Where INT8 is used by default, by family."""

from __future__ import annotations

from hvt_deploy.core.run_config import Int8Roles, QuantizationConfig
from hvt_deploy.core.types import Int8Attention
from hvt_deploy.graph.analysis.roles import LINEAR_ROLES, PRODUCT_ROLES, Role

# The Linears that are INT8 in TensorRT-RTX, and whether attention is, where trained weights or the
# engine's kernels want something else than the default (benchmarks/results/int8_placement.md).
# HVT's attention is FP16, which reads q, k and v where an FP16 product wrote them.
_OF_FAMILY: dict[str, tuple[tuple[Role, ...], Int8Attention]] = {
    "faster_vit": (LINEAR_ROLES, "always"),
    "dfvt": (LINEAR_ROLES, "always"),
    "hvt": (tuple(role for role in LINEAR_ROLES if role != "qkv"), "never"),
    "fdvit": (LINEAR_ROLES, "never"),
}


def find_int8_defaults(family: str) -> QuantizationConfig:
    """The default of a family; of an unknown one as of timm's models."""
    linears, attention = _OF_FAMILY.get(family, (LINEAR_ROLES, "auto"))
    roles = Int8Roles(rtx=linears, tensorrt=PRODUCT_ROLES, cpu=PRODUCT_ROLES)
    return QuantizationConfig(roles, LINEAR_ROLES, attention)
