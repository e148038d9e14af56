"""What an ONNX file of another exporter takes and gives, and why it cannot be taken."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, inliner

from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.graph.opset import read_opset
from hvt_deploy.graph.queries import map_readers
from hvt_deploy.graph.storage import load_onnx

# Operators of quantized files, also of ONNX Runtime's own domain (QLinearAdd, QGemm, MatMulNBits).
_QUANTIZED = re.compile(r".*[Qq]uantize.*|QLinear.*|Q(Gemm|Attention)|\w+(Integer.*|NBits)")
_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Operators that TensorRT's ONNX parser does not know (onnx-tensorrt, docs/operators.md).
TENSORRT_LACKS = frozenset(
    {
        *("Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"),
        *("CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence", "ConvInteger", "Det"),
        *("DFT", "MatMulInteger", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial"),
        *("NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement", "OptionalHasElement"),
        *("RandomNormal", "RandomNormalLike", "SequenceAt", "SequenceConstruct", "SequenceEmpty"),
        *("SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap"),
        *("SoftmaxCrossEntropyLoss", "SplitToSequence", "StringNormalizer", "TfIdfVectorizer"),
        "Unique",
    }
)
Shape = Sequence["int | str"]
# More than any network has; functions that call each other twice grow beyond all memory.
_MOST_NODES = 1_000_000


@dataclass(frozen=True)
class Interface:
    """The image input and the logits output of a file."""

    input_name: str
    """Name of the input (batch, 3, height, width)."""
    output_name: str
    """Name of the output (batch, classes)."""
    image_size: tuple[int, int]
    """(height, width), pixels."""
    num_classes: int
    """Classes of the output."""
    batch: int | None
    """The fixed batch size; None where the file names no number."""
    opset: int
    """Version of the default operator set."""


def read_foreign(path: Path, image_size: tuple[int, int] | None = None) -> onnx.ModelProto:
    """A file of another exporter without local functions; `image_size` fixes sizes that are not.

    Raises BadInput for a file that is no ONNX, whose external weights are missing, that is
    quantized or FP16 already or uses operators of no standard domain.
    """
    if not path.is_file():
        raise BadInput(f"There is no file {path}.", "Give the path of an ONNX file.")
    list_external(path)
    with refusing_invalid(path):
        model = load_onnx(path)
        if not model.graph.node:
            raise BadInput(f"{path} holds no ONNX graph.", "Export the model again.")
        if model.functions:
            _check_functions(path, model)
            model = inliner.inline_local_functions(model)
        _store_constants(model.graph)
    _check_precision(path, model)
    _check_operators(path, model)
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in [v for v in model.graph.input if v.name in weights]:
        model.graph.input.remove(value)  # older exporters list weights as inputs too
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value < 0:  # PaddlePaddle's word for any
                dim.dim_param = "any"
    if image_size is not None and len(model.graph.input) == 1:
        dims = model.graph.input[0].type.tensor_type.shape.dim
        for dim, size in zip(dims[2:], image_size, strict=False):
            if dim.dim_value <= 0:
                dim.dim_value = size
                del model.graph.value_info[:]
    return model


@contextmanager
def refusing_invalid(path: Path) -> Generator[None]:
    """Raise BadInput for what the libraries refuse in the file at `path`."""
    try:
        yield
    except (
        *(ValueError, RuntimeError, ToolFailure),
        *(onnx.checker.ValidationError, onnx.shape_inference.InferenceError),
    ) as error:
        why = next(filter(None, str(error).splitlines()), type(error).__name__)
        raise BadInput(f"{path} is not a valid ONNX file: {why:.300}", "Export it anew.") from error


def _check_functions(path: Path, model: onnx.ModelProto) -> None:
    """Raise BadInput where the graph would be too large with its functions written out."""
    calls = {
        (f.domain, f.name): Counter((n.domain, n.op_type) for n in f.node) for f in model.functions
    }
    sizes = dict.fromkeys(calls, 1)
    for _ in calls:  # each time one level of calls more
        sizes = {
            name: min(_MOST_NODES, sum(sizes.get(one, 1) * n for one, n in inner.items()))
            for name, inner in calls.items()
        }
    nodes = sum(sizes.get((node.domain, node.op_type), 1) for node in model.graph.node)
    if nodes >= _MOST_NODES:
        raise BadInput(f"{path} has {_MOST_NODES:,} nodes or more.", "Export it anew.")


def list_external(path: Path) -> list[Path]:
    """The files with weights of the ONNX file at `path`, sorted.

    Raises BadInput for one that is missing or outside its folder.
    """
    model, files = load_onnx(path, weights=False), set[Path]()
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        location = next(e.value for e in tensor.external_data if e.key == "location")
        with refusing_invalid(path):
            file = (path.parent / location).resolve()
        if not file.is_relative_to(path.parent.resolve()):
            raise BadInput(
                f"{path} asks for weights outside its folder: {location}.", "Nothing was read."
            )
        if not file.is_file():
            raise BadInput(
                f"The external weights of {path} are missing: {file} is not there.",
                "Copy that file next to it; the exporter wrote both.",
            )
        files.add(file)
    return sorted(files)


def read_interface(path: Path, model: onnx.ModelProto) -> Interface:
    """What `model`, read from `path`, takes and gives.

    Raises BadInput that names what is not one image input and one output of logits.
    """
    images = _single(path, "input", model.graph.input)
    logits = _single(path, "output", model.graph.output)
    with refusing_invalid(path):
        found = _shape(next(iter(onnx.shape_inference.infer_shapes(model).graph.output)))
    if len(found) != 2:
        raise BadInput(
            f"{path}: the output {logits.name} has the shape {_show(found)}; logits have "
            "(batch, classes). It is no classifier of images.",
            "A detector, a segmenter or a text recognizer cannot be validated here.",
        )
    size, batch = _check_images(path, images)
    classes = found[1]
    if not isinstance(classes, int) or classes < 1:
        raise BadInput(
            f"{path}: the number of classes of the output {logits.name} {_show(found)} is not "
            "known.",
            "Export it with a fixed number of classes.",
        )
    if classes == 1:
        raise BadInput(
            f"{path}: the output {logits.name} is one number an image, which is no choice of a "
            "class.",
            "Export it with a logit for each class, two for yes and no.",
        )
    return Interface(images.name, logits.name, size, classes, batch, read_opset(model))


def name_unsupported(model: onnx.ModelProto) -> str:
    """A sentence that names operators which TensorRT does not know; "" where it knows all."""
    lacking = {n.op_type: n.name for n in model.graph.node if n.op_type in TENSORRT_LACKS}
    if not lacking:
        return ""
    named = ", ".join(f"{op} ({name})" for op, name in sorted(lacking.items()))
    return f"TensorRT lacks operators of this graph, no engine can be built of it: {named}."


def find_preprocessing(model: onnx.ModelProto) -> list[str]:
    """The operators that prepare the images in the graph itself, before anything else reads them:
    sums with and products by a constant, as a subtracted mean is.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    readers, found = map_readers(model.graph), list[str]()
    tensor = model.graph.input[0].name
    while len(reading := readers.get(tensor, [])) == 1:
        (node,) = reading
        arithmetic = node.op_type in ("Sub", "Add", "Mul", "Div")
        if not arithmetic and node.op_type not in ("Cast", "Identity", "Transpose"):
            break
        if arithmetic and constants.intersection(node.input):
            found.append(node.op_type)
        tensor = node.output[0]
    return found


def _single(path: Path, end: str, values: Sequence[onnx.ValueInfoProto]) -> onnx.ValueInfoProto:
    if len(values) != 1:
        shown = ", ".join(f"{v.name} {_show(_shape(v))}" for v in values)
        wanted = "one input of images" if end == "input" else "one output of logits"
        raise BadInput(
            f"{path} has {len(values)} {end}s: {shown}; expected {wanted}.",
            "Export the network with its images and its logits alone.",
        )
    return values[0]


def _check_images(path: Path, images: onnx.ValueInfoProto) -> tuple[tuple[int, int], int | None]:
    """(height, width) and the fixed batch size of the input."""
    shape, kind = _shape(images), images.type.tensor_type.elem_type
    name = TensorProto.DataType.Name(kind).lower()
    shown = f"{path}: the input {images.name} is {name} {_show(shape)}"
    expected = "expected float32 images (batch, 3, height, width)"
    if len(shape) == 4 and shape[1] != 3 and shape[3] == 3:
        raise BadInput(f"{shown}: channels come last; {expected}.", "Export it with them first.")
    if kind != TensorProto.FLOAT or len(shape) != 4 or shape[1] not in (3, "channels", ""):
        raise BadInput(f"{shown}; {expected}.", "Give the FP32 file of a classifier of images.")
    batch, _, height, width = shape
    if not isinstance(height, int) or not isinstance(width, int):
        raise BadInput(
            f"{shown}: its height or width is dynamic; {expected} of one size.",
            "Give the size: --image-size HxW",
        )
    return (height, width), batch if isinstance(batch, int) else None


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    foreign = {n.domain: n for n in model.graph.node if n.domain not in ("", "ai.onnx")}
    if foreign:
        named = ", ".join(f"{d}::{n.op_type} (node {n.name})" for d, n in foreign.items())
        raise BadInput(
            f"{path} uses custom operators: {named}.",
            "Export it with operators of ONNX alone, before any runtime has optimized it.",
        )


def _check_precision(path: Path, model: onnx.ModelProto) -> None:
    quantized = sorted({n.op_type for n in model.graph.node if _QUANTIZED.fullmatch(n.op_type)})
    if quantized:
        raise BadInput(
            f"{path} is quantized already ({', '.join(quantized)}).",
            "Give the FP32 file: hvt-deploy quantize makes INT8 of it.",
        )
    half = [tensor.name for tensor in model.graph.initializer if tensor.data_type in _HALF]
    if half:
        raise BadInput(
            f"{path} is FP16 or BF16 already: weights such as {half[0]} are.",
            "Give the FP32 file: hvt-deploy quantize --fp16 makes FP16 of it.",
        )


def _store_constants(graph: onnx.GraphProto) -> None:
    """Make initializers of Constant nodes, in place."""
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        attribute = node.attribute[0]
        if attribute.name == "value":
            graph.initializer.add().CopyFrom(attribute.t)
            graph.initializer[-1].name = node.output[0]
            graph.node.remove(node)


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]


def _show(shape: Shape) -> str:
    return f"({', '.join(str(size) or '?' for size in shape)})"
