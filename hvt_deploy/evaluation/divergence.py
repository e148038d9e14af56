"""Where two forms of a model diverge, module by module.

A module's **local error** is the error of its output when its inputs are the reference's: errors of
earlier modules do not count. A module **jumps** if its local error is above the limit of the
candidate's precision.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.graph.module_graph import ModuleGraph
from hvt_deploy.runtime.base import TappedBackend

Numbers = Literal["fp32", "fp16", "int8"]
# The local errors of all modules of the four trained demo models reached 2e-6, 5e-3 and 5e-2.
LIMITS: Mapping[Numbers, float] = {"fp32": 1e-4, "fp16": 3e-2, "int8": 0.15}
# Stands for infinity, which JSON does not have.
NOT_FINITE = 1e30
# What a part of a graph gives for its inputs, both by tensor name.
PartRunner = Callable[[onnx.ModelProto, Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class ModuleError:
    """The error of one module, relative to the size of its output.

    Attributes:
        path: Module path.
        tensor: Name of its output in the graph.
        error: Error of the output when the candidate runs as a whole.
        local_error: Error of the output when the inputs are the reference's.

    """

    path: str
    tensor: str
    error: float
    local_error: float


@dataclass(frozen=True, eq=False)
class Evidence:
    """The data behind a local error.

    Attributes:
        part: The nodes between the module's inputs and its output.
        inputs: The reference's values by the names of the inputs, in the types of the part.
        expected: The reference's output.

    """

    part: onnx.ModelProto
    inputs: Mapping[str, NDArray[Any]]
    expected: NDArray[np.float32]


def relative_error(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> float:
    """The largest root mean square difference of any slice along any axis, over that of the
    reference.

    A slice is an image, a channel, a token or a row of pixels: what is wrong in one channel counts
    as if it were wrong in all. NOT_FINITE where one of them is not finite, unless both are the same
    (the infinities of a mask); NaN is the same as nothing.
    """
    expected, found = reference.astype(np.float64), candidate.astype(np.float64)
    if not (np.isfinite(expected).all() and np.isfinite(found).all()):
        return 0.0 if np.array_equal(expected, found) else NOT_FINITE
    squares = np.square(found - expected)
    axes = range(squares.ndim)
    worst = max(
        (float(squares.mean(axis=tuple(i for i in axes if i != axis)).max()) for axis in axes),
        default=float(squares.mean()),
    )
    scale = float(np.square(expected).mean())
    return math.sqrt(worst / scale) if scale > 0 else (0.0 if worst == 0 else NOT_FINITE)


def numbers_of(model: onnx.ModelProto) -> Numbers:
    """The lowest precision that a graph computes in."""
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return "int8"
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return "fp16" if half else "fp32"


def compare_modules(
    reference: TappedBackend,
    candidate: TappedBackend,
    graph: ModuleGraph,
    run: PartRunner,
    images_NCHW: ImagesNCHW,
) -> Iterator[tuple[ModuleError, Evidence]]:
    """Every module of the candidate's `graph` whose output the reference has in the same shape, in
    its order.

    The reference's outputs wait in temporary files, so memory does not grow with their number.
    """
    flowing = candidate.taps(images_NCHW, list(graph.outputs))
    with tempfile.TemporaryDirectory(prefix="hvt-deploy-") as folder:
        known: dict[str, Path] = {}
        for path, expected in reference.taps(images_NCHW, list(graph.outputs)):
            found = next(array for name, array in flowing if name == path)
            tensor = graph.outputs[path]
            if tensor in known or found.shape != expected.shape:
                continue
            part = graph.cut(known, [tensor])
            given = {
                v.name: np.load(known[v.name]) if v.name in known else images_NCHW
                for v in part.graph.input
            }
            inputs = {value.name: _typed(given[value.name], value) for value in part.graph.input}
            own = run(part, inputs)[tensor]
            error = ModuleError(
                path, tensor, relative_error(expected, found), relative_error(expected, own)
            )
            yield error, Evidence(part, inputs, expected)
            known[tensor] = Path(folder) / f"{len(known)}.npy"
            np.save(known[tensor], expected)


def _typed(array: NDArray[np.float32], value: onnx.ValueInfoProto) -> NDArray[Any]:
    """The reference's values in the type that the candidate computes in."""
    return array.astype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
