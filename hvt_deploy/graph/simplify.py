"""Constant folding and shape clean-up by onnxslim or onnxsim, before anything is quantized.

On the raw export of a Swin only 2 of 12 attention blocks fuse in TensorRT, simplified 12 of 12.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportMissingTypeStubs=false

from __future__ import annotations

import sys

import onnx

from hvt_deploy.core.environment import require
from hvt_deploy.core.errors import MissingEnvironment, ToolFailure
from hvt_deploy.core.types import Simplifier
from hvt_deploy.graph.large import with_large, without_large
from hvt_deploy.graph.names import restore_names


def simplify(model: onnx.ModelProto, tool: Simplifier) -> onnx.ModelProto:
    """The simplified graph with `<module path>/<op>` names. Large weights are as they were, in
    memory or in a file.

    Raises ToolFailure if the tool does.
    """
    if tool == "none":
        return model
    if tool == "onnxsim" and sys.version_info < (3, 11):
        raise MissingEnvironment(
            "onnxsim needs Python 3.11 or newer.", "Use --simplifier onnxslim."
        )
    require(tool, extra="export")
    skeleton = without_large(model)
    try:
        simplified = _slim(skeleton) if tool == "onnxslim" else _sim(skeleton)
    except Exception as error:
        raise ToolFailure(
            f"{tool} failed: {error}", "Try the other one: --simplifier onnxslim, onnxsim or none."
        ) from error
    return restore_names(with_large(simplified, model), model)


def _slim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    slimmed = onnxslim.slim(model)
    if not isinstance(slimmed, onnx.ModelProto):
        raise TypeError("no model came back")
    return slimmed


def _sim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    simplified, _ = onnxsim.simplify(model)
    return simplified
