"""Networks that were not written here in the forms that roles, FP16, INT8 and engines know."""

from __future__ import annotations

import onnx

from hvt_deploy.graph.foreign.constant_shapes import fix_shapes
from hvt_deploy.graph.foreign.einsum_products import write_products
from hvt_deploy.graph.foreign.empty_masks import drop_empty_masks
from hvt_deploy.graph.foreign.norm_fusion import fuse_layer_norms


def write_common_forms(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph, of opset 17 or higher, with constant shapes, a MatMul for an Einsum, one operator
    for a LayerNorm, and without masks that mask nothing. In exact arithmetic it is the same
    function.
    """
    return fuse_layer_norms(drop_empty_masks(write_products(fix_shapes(model))))
