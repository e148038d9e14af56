"""The specification of an ONNX file, read from the file. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import hash_file
from hvt_deploy.core.model_options import ModelOptions, OnnxSource
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.graph.foreign.interface import list_external, read_foreign, read_interface
from hvt_deploy.graph.opset import SUPPORTED_OPSETS
from hvt_deploy.models.spec import Checkpoint, ModelSpec


def spec_of_onnx(
    name: str, image_size: tuple[int, int] | None = None, source: OnnxSource | None = None
) -> ModelSpec:
    """The spec of the ONNX file at the path `name`; with a `source` the file is not read.

    `image_size` is that of a file whose sizes are dynamic. Raises BadInput for a file that is no
    classifier of images, as `read_foreign` and `read_interface`, and for another image size.
    """
    if source is None:
        path = Path(name)
        found = read_interface(path, read_foreign(path, image_size))
        source = OnnxSource(
            str(path.resolve()),
            hash_file(path, *list_external(path)),
            found.input_name,
            found.output_name,
            found.image_size,
            found.num_classes,
            found.batch,
            min(max(found.opset, SUPPORTED_OPSETS.start), SUPPORTED_OPSETS.stop - 1),
        )
    if image_size not in (None, source.image_size):
        size = "x".join(map(str, source.image_size))
        raise BadInput(f"{name} takes {size} images only.", "Export it anew for another size.")
    return ModelSpec(
        name=name,
        family="onnx_file",
        architecture=source,
        num_classes=source.num_classes,
        preprocessing=Preprocessing(source.image_size),
        published=None,
        measured=None,
        checkpoint=Checkpoint(own_file=Path(source.path)),
        code_licence="not stated",
        weights_licence="not stated",
        options=ModelOptions(onnx_file=source),
        heads=(),
        opset=source.opset,
        batch=source.batch,
    )
