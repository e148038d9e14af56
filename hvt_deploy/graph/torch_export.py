"""A deployed-form module as an ONNX graph, through torch's dynamo exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from torch import nn

from hvt_deploy.core.errors import ToolFailure
from hvt_deploy.core.tensors import Signature
from hvt_deploy.graph.fold import fold_large
from hvt_deploy.graph.large_weights import LARGE_BYTES
from hvt_deploy.graph.node_names import name_nodes
from hvt_deploy.graph.opset import NATIVE_OPSET, read_opset

# An example batch of 1 would be baked into the graph.
_EXAMPLE_BATCH = 2


def export_onnx(
    model: nn.Module, signature: Signature, opset: int, weights: Path | None = None
) -> onnx.ModelProto:
    """Export `model` at the larger of `opset` and the exporter's floor, 18; `convert_opset` goes
    below it.

    Nodes are named `<module path>/<op>`. If `weights` is given, large weights are streamed into
    that file and the graph refers to it by name, so that they are never in memory twice. Raises
    ToolFailure if the exporter fails or writes another opset.
    """
    native = max(NATIVE_OPSET, opset)
    example = torch.zeros(signature.images_shape(signature.batch or _EXAMPLE_BATCH))
    dynamic = None if signature.batch else ({0: torch.export.Dim("batch")},)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    noise = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(noise), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(  # pyright: ignore[reportUnknownMemberType]
                model.eval(),
                (example,),
                dynamo=True,
                opset_version=native,
                input_names=[signature.input_name],
                output_names=[signature.output_name],
                dynamic_shapes=dynamic,
                verbose=False,
                optimize=False,
            )
            if program is not None:
                # Before the exporter's own folding, which keeps every result in memory, and after
                # it for what depends on a small result of it, such as the shape of a Reshape.
                fold_large(program.model)
                program.optimize()
                fold_large(program.model)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ToolFailure(
            f"PyTorch's ONNX exporter failed: {reason}", "Run again with --debug to see where."
        ) from error
    if program is None:
        raise ToolFailure(
            "PyTorch's ONNX exporter returned nothing.",
            "Report this with the versions of torch and onnx.",
        )
    if weights is not None:
        ir.external_data.unload_from_model(  # pyright: ignore[reportUnknownMemberType]
            program.model, weights.parent, weights.name, size_threshold_bytes=LARGE_BYTES - 1
        )
    proto = program.model_proto
    if read_opset(proto) != native:
        raise ToolFailure(
            f"PyTorch's ONNX exporter wrote opset {read_opset(proto)}, expected {native}.",
            "Report this with the versions of torch and onnx.",
        )
    return name_nodes(proto)
