"""A deployed-form module as an ONNX graph, through torch's dynamo exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import TypeAlias

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

_DynamicShapes: TypeAlias = "tuple[dict[int, torch.export.Dim], ...]"
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
    try:
        with _silence(), torch.no_grad():
            program = _write(model.eval(), (example,), signature, native, dynamic)
            if dynamic is not None and _has_fixed_batch(program):
                traced = _trace_batch(model, example, dynamic)
                program = _write(traced, (), signature, native, dynamic)
            # Before the exporter's own folding, which keeps every result in memory, and after it
            # for what depends on a small result of it, such as the shape of a Reshape.
            fold_large(program.model)
            program.optimize()
            fold_large(program.model)
    except ToolFailure:
        raise
    except Exception as error:
        raise ToolFailure(
            f"PyTorch's ONNX exporter failed: {_first_line(error)}",
            "Run again with --debug to see where.",
        ) from error
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


@contextlib.contextmanager
def _silence() -> Generator[None]:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    logging.getLogger("torch._guards").setLevel(logging.CRITICAL)  # it prints what it raises
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _write(
    model: nn.Module | torch.export.ExportedProgram,
    arguments: tuple[torch.Tensor, ...],
    signature: Signature,
    opset: int,
    dynamic: _DynamicShapes | None,
) -> torch.onnx.ONNXProgram:
    """What the exporter makes of a module, or of one that was traced."""
    program = torch.onnx.export(  # pyright: ignore[reportUnknownMemberType]
        model,
        arguments,
        dynamo=True,
        opset_version=opset,
        input_names=[signature.input_name],
        output_names=[signature.output_name],
        dynamic_shapes=dynamic,
        verbose=False,
        optimize=False,
    )
    if program is None:
        raise ToolFailure(
            "PyTorch's ONNX exporter returned nothing.",
            "Report this with the versions of torch and onnx.",
        )
    return program


def _has_fixed_batch(program: torch.onnx.ONNXProgram) -> bool:
    shape = program.model.graph.inputs[0].shape
    return shape is not None and isinstance(shape[0], int)


def _trace_batch(
    model: nn.Module, example: torch.Tensor, dynamic: _DynamicShapes
) -> torch.export.ExportedProgram:
    """The module traced by PyTorch's compiler, to which `len(images)` is no constant.

    Raises ToolFailure where it is all the same, or the compiler fails.
    """
    try:
        return torch.export.export(model, (example,), dynamic_shapes=dynamic, strict=True)
    except Exception as error:
        raise ToolFailure(
            "The network's code makes a constant of the batch size, as a loop over the images does "
            f"({_first_line(error)}).",
            "Compute all images at once, or export for one batch size: --batch N",
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
