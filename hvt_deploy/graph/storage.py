"""ONNX files: read, written and checked, with large weights in an external file."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.core.files import hash_file

# A protobuf message cannot be larger than 2 GiB. The exporter and the simplifier copy weights in
# memory six times and external weights never, so these start at half of the limit.
EXTERNAL_ABOVE_BYTES = 2**30
# No initializer that is a shape or a list of axes is larger.
_SHAPE_BYTES = 1024
# The metadata key for the hash of the external weights: without it, graphs with different weights
# would have the same hash.
_WEIGHTS_SHA256 = "hvt_deploy.weights_sha256"


def external_weights_path(path: Path, weight_bytes: int) -> Path | None:
    """The file for the weights of the ONNX file `path`; None if they are few enough to be in it."""
    return path.with_name(f"{path.name}.data") if weight_bytes > EXTERNAL_ABOVE_BYTES else None


def save_onnx(
    model: onnx.ModelProto, path: Path, external_above_bytes: int = EXTERNAL_ABOVE_BYTES
) -> None:
    """Write `model`, which gets inferred shapes, and run onnx.checker's full check on the file.

    Weights in memory go to `<path>.data` if they are larger than `external_above_bytes`. External
    weights stay in their file, which must be in the folder of `path`. Raises ToolFailure if the
    checker refuses the file, OSError if it cannot be written.
    """
    external = sum(len(t.raw_data) for t in model.graph.initializer) > external_above_bytes
    if external:
        write_onnx(model, path, weights_name=f"{path.name}.data")
        graph = onnx.shape_inference.infer_shapes(load_onnx(path, weights=False))
        _record_weights_hash(graph, path.parent)
        write_onnx(graph, path)
        # onnx.save_model moves the weights out of the caller's model: read them back.
        onnx.load_external_data_for_model(model, str(path.parent))
    else:
        _record_shapes(model)
        _record_weights_hash(model, path.parent)
        write_onnx(model, path)
    try:
        onnx.checker.check_model(  # pyright: ignore[reportUnknownMemberType]
            str(path), full_check=True
        )
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ToolFailure(
            f"onnx.checker rejects the graph: {error}", "Report this with the model's name."
        ) from error


def _record_shapes(model: onnx.ModelProto) -> None:
    """Write inferred shapes into `model`. onnx, which copies what it gets twice, gets no weights:
    it reads numbers only where they are a shape or an axis.
    """
    graph = model.graph
    skeleton = onnx.GraphProto(
        name=graph.name,
        node=graph.node,
        input=graph.input,
        output=graph.output,
        value_info=graph.value_info,
        sparse_initializer=graph.sparse_initializer,
        initializer=(
            onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            if len(tensor.raw_data) > _SHAPE_BYTES
            else tensor
            for tensor in graph.initializer
        ),
    )
    inferred = onnx.shape_inference.infer_shapes(
        onnx.ModelProto(
            ir_version=model.ir_version,
            opset_import=model.opset_import,
            functions=model.functions,
            graph=skeleton,
        )
    ).graph
    del graph.value_info[:], graph.output[:]
    graph.value_info.extend(inferred.value_info)
    graph.output.extend(inferred.output)


def write_onnx(model: onnx.ModelProto, path: Path, weights_name: str | None = None) -> None:
    """Write `model` as it is; with `weights_name`, its weights go to that file of the same folder.

    Raises OSError if it cannot be written.
    """
    onnx.save_model(  # pyright: ignore[reportUnknownMemberType]
        model,
        path,
        save_as_external_data=weights_name is not None,
        location=weights_name,
        size_threshold=1024,
    )


def _record_weights_hash(model: onnx.ModelProto, folder: Path) -> None:
    """Write the hash of the external files, if there are any, into the metadata."""
    locations = {
        entry.value
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    if not locations:
        return
    sha256 = hash_file(*(folder / location for location in sorted(locations)))
    kept = [entry for entry in model.metadata_props if entry.key != _WEIGHTS_SHA256]
    del model.metadata_props[:]
    model.metadata_props.extend(
        [*kept, onnx.StringStringEntryProto(key=_WEIGHTS_SHA256, value=sha256)]
    )


def load_onnx(path: Path, *, weights: bool = True) -> onnx.ModelProto:
    """Read an ONNX file; without `weights`, external weights stay in their file.

    Raises BadInput if a file is missing or not ONNX.
    """
    with refusing_broken(path):
        return onnx.load_model(  # pyright: ignore[reportUnknownMemberType]
            path, load_external_data=weights
        )


@contextmanager
def refusing_broken(path: Path, *errors: type[Exception]) -> Generator[None]:
    """Raise BadInput where the block finds no file, or one that is not ONNX by protobuf's error or
    one of `errors`.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise BadInput(f"{error.filename or path} is missing.", "Export the model again.") from None
    except (DecodeError, *errors):
        raise BadInput(
            f"{path} is not an ONNX file, or it is truncated.", "Export the model again."
        ) from None
