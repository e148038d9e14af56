"""Reading and writing ONNX files: checked on the way out, large weights in a file beside the graph."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.core.files import hash_file

# A protobuf message cannot be larger than 2 GiB. Weights in memory are copied six times on their
# way through the exporter and the simplifier, those in a file are not: half of the limit is where a
# file begins to pay.
EXTERNAL_ABOVE_BYTES = 2**30
# Where a graph says which weights belong to it: without this its own hash would be the same for
# others.
_WEIGHTS_SHA256 = "hvt_deploy.weights_sha256"


def external_weights(path: Path, weight_bytes: int) -> Path | None:
    """The file for the weights of the ONNX file `path`, where there are too many of them for one
    file.
    """
    return path.with_name(f"{path.name}.data") if weight_bytes > EXTERNAL_ABOVE_BYTES else None


def save_onnx(
    model: onnx.ModelProto, path: Path, external_above_bytes: int = EXTERNAL_ABOVE_BYTES
) -> None:
    """Write `model` with inferred shapes and run onnx.checker's full check on the file.

    Weights in memory go to `<path>.data` where they are larger than `external_above_bytes`; those
    that are in a file stay there, and it must be beside `path`. Raises ToolFailure if the checker
    refuses the file, OSError if it cannot be written.
    """
    external = sum(len(t.raw_data) for t in model.graph.initializer) > external_above_bytes
    if external:
        onnx.save_model(
            model,
            path,
            save_as_external_data=True,
            location=f"{path.name}.data",
            size_threshold=1024,
        )
        graph = onnx.load_model(path, load_external_data=False)
        graph = onnx.shape_inference.infer_shapes(graph)
        _name_weights(graph, path.parent)
        onnx.save_model(graph, path)
        # onnx moves the weights out of the model it is given; the caller's stays as it was.
        onnx.load_external_data_for_model(model, str(path.parent))
    else:
        inferred = onnx.shape_inference.infer_shapes(model)
        _name_weights(inferred, path.parent)
        onnx.save_model(inferred, path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ToolFailure(
            f"onnx.checker refuses the graph: {error}", "Report this with the model's name."
        ) from error


def _name_weights(model: onnx.ModelProto, folder: Path) -> None:
    """Write the hash of the files that hold weights, if there are any, into the graph."""
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
    """Read an ONNX file. Without `weights`, those that are in a file beside it stay there, and the
    graph refers to it.

    Raises BadInput if it is missing or not ONNX.
    """
    try:
        return onnx.load_model(path, load_external_data=weights)
    except FileNotFoundError as error:
        raise BadInput(f"{error.filename or path} is missing.", "Export the model again.") from None
    except DecodeError:
        raise BadInput(
            f"{path} is not an ONNX file, or it is truncated.", "Export the model again."
        ) from None
