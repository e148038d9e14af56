"""Constant folding and shape clean-up by onnxslim or onnxsim, before anything is quantized.

On the raw export of a Swin only 2 of 12 attention blocks fuse in TensorRT; simplified, all 12 do.
"""

from __future__ import annotations

import sys
from typing import cast

import onnx

from hvt_deploy.core.environment import require
from hvt_deploy.core.errors import MissingEnvironment, ToolFailure
from hvt_deploy.core.types import Simplifier
from hvt_deploy.graph.large_weights import remove_large_weights, restore_large_weights
from hvt_deploy.graph.node_names import restore_names


def simplify(model: onnx.ModelProto, tool: Simplifier) -> onnx.ModelProto:
    """The simplified graph with `<module path>/<op>` names; large weights are unchanged.

    Raises ToolFailure if the tool fails, MissingEnvironment if it is not installed.
    """
    if tool == "none":
        return model
    if tool == "onnxsim" and sys.version_info < (3, 11):
        raise MissingEnvironment(
            "onnxsim needs Python 3.11 or newer.", "Use --simplifier onnxslim."
        )
    require(tool, extra="export")
    skeleton = remove_large_weights(model)
    try:
        simplified = _slim(skeleton) if tool == "onnxslim" else _sim(skeleton)
    except Exception as error:
        raise ToolFailure(
            f"{tool} failed: {error}", "Try another --simplifier: onnxslim, onnxsim or none."
        ) from error
    return restore_names(restore_large_weights(simplified, model), model)


def _slim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    slimmed = cast("object", onnxslim.slim(model))  # pyright: ignore[reportUnknownMemberType]
    if not isinstance(slimmed, onnx.ModelProto):
        raise TypeError("it returned no model")
    return slimmed


def _sim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    simplified, _ = onnxsim.simplify(model)  # pyright: ignore[reportUnknownMemberType]
    return simplified
