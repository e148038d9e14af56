"""The graphs that the sections compare on a GPU, made once and kept in the folder that the sections
share: a model with seeded random weights, or the FP32 graph of an export made elsewhere.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from hvt_deploy.core.environment import cpu_count, require
from hvt_deploy.core.errors import BadInput, CheckFailed, MissingEnvironment
from hvt_deploy.core.manifest import GraphRecipe
from hvt_deploy.core.model_options import is_onnx_file
from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK, Signature
from hvt_deploy.core.types import Device, Precision, Runtime
from hvt_deploy.evaluation.parity import compare_logits, draw_seeded_noise
from hvt_deploy.evaluation.verification.checks import Fact
from hvt_deploy.graph.opset import convert_opset
from hvt_deploy.graph.quantization.int8_calibration import Int8Calibration
from hvt_deploy.graph.quantization.quantized_graph import make_quantized_graph
from hvt_deploy.graph.quantization.ranges import collect_ranges
from hvt_deploy.graph.queries import QDQ_OPS
from hvt_deploy.graph.simplify import simplify
from hvt_deploy.graph.storage import load_onnx, save_onnx
from hvt_deploy.models.int8_defaults import find_int8_defaults
from hvt_deploy.models.registry import list_specs
from hvt_deploy.runtime.backend_registry import open_backend
from hvt_deploy.runtime.base import Backend, BackendRequest
from hvt_deploy.runtime.variant import Form, Variant

EnginePrecision = Literal["fp32", "fp16", "int8"]
ENGINE_PRECISIONS: tuple[EnginePrecision, ...] = ("fp32", "fp16", "int8")
IMAGES = 16
# FP32 that is really TF32 (10 bits of mantissa) is at about 63 dB.
FP32_SQNR_DB = 90.0
# How much further from the reference than ONNX Runtime on the CPU a GPU may be. FP16 is rounded in
# other places: PyTorch's on the CPU is up to 5.6 dB further away (faster_vit_demo).
_MARGINS_DB: Mapping[EnginePrecision, float] = {"fp16": 9.0, "int8": 3.0}
_RECORD = "graphs.json"
# FP16 between Q and DQ is wrong in ONNX Runtime on the CPU.
_CPU_PRECISIONS: Mapping[EnginePrecision, Precision] = {"fp16": "fp16", "int8": "int8-fp32"}


@dataclass(frozen=True)
class VerifiedGraphs:
    """A model and its graphs, in one folder."""

    folder: Path
    """Holds the graph of each precision and the reference's logits, PyTorch's weights too."""
    model: str
    """Name of the model."""
    signature: Signature
    """Of the graphs."""
    reference: Literal["PyTorch", "ONNX Runtime"]
    """What computed the logits that all are compared with, in FP32 on the CPU."""
    least_sqnr_db: Mapping[EnginePrecision, float] = field(
        default_factory=dict[EnginePrecision, float]
    )
    """SQNR against the reference that each precision has to reach on a GPU."""

    def onnx(self, precision: Precision) -> Path:
        """The graph of a precision."""
        return self.folder / f"{self.model}.{precision}.onnx"

    @property
    def weights(self) -> Path:
        """PyTorch's weights."""
        return self.folder / f"{self.model}.safetensors"

    @property
    def images_NCHW(self) -> ImagesNCHW:  # noqa: N802
        """Images of seeded noise (IMAGES, 3, H, W), which the graphs are calibrated on too."""
        return draw_seeded_noise(self.signature, IMAGES, seed=0)

    @property
    def logits_NK(self) -> LogitsNK:  # noqa: N802
        """Logits (IMAGES, K) of these images, by the reference."""
        return np.load(self.logits_file)

    def open(
        self,
        runtime: Runtime,
        device: Device,
        precision: Precision,
        path: Path | None = None,
        form: Form = "plain",
    ) -> Backend:
        """The backend that runs `path`, by default the graph of the precision."""
        variant = Variant(runtime, device, precision, form)
        file = path or self.onnx(precision)
        return open_backend(
            BackendRequest(variant, file, self.model, self.signature, threads=cpu_count())
        )

    @property
    def logits_file(self) -> Path:
        """The reference's logits, as numpy writes them."""
        return self.folder / "logits.npy"


def check_graph(file: Path) -> None:
    """Raise BadInput unless `file` is an FP32 graph from images of any batch size to logits."""
    _read_signature(load_onnx(file, weights=False), file)


def prepare_graphs(model: str, folder: Path) -> VerifiedGraphs:
    """The graphs in `folder`, made now if no section did; needs no GPU. `model` is a name, or the
    file of an FP32 graph, for which PyTorch is not needed.

    Raises MissingEnvironment without PyTorch, onnxslim or ONNX Runtime, BadInput for a file that is
    no FP32 graph of an export.
    """
    record = folder / _RECORD
    if record.is_file():
        return from_plain(VerifiedGraphs, json.loads(record.read_text(encoding="utf-8")))
    require("onnxruntime", "cpu")
    graphs = _take_graph(Path(model), folder) if is_onnx_file(model) else _export(model, folder)
    _quantize(graphs)
    graphs = replace(
        graphs, least_sqnr_db={p: _least_sqnr_db(graphs, p) for p in ENGINE_PRECISIONS}
    )
    record.write_text(json.dumps(to_plain(graphs)), encoding="utf-8")
    return graphs


def compare_with_reference(
    backend: Backend, graphs: VerifiedGraphs, precision: EnginePrecision, measured: dict[str, Fact]
) -> None:
    """Raises CheckFailed unless the logits of all images, in batches of every size, are as near to
    the reference's as the precision allows.
    """
    images_NCHW, logits_NK = graphs.images_NCHW, graphs.logits_NK
    least_db = graphs.least_sqnr_db[precision]
    measured.update({"reference": graphs.reference, "least sqnr_db": least_db})
    found: dict[int, float] = {}
    for batch in (IMAGES, 5, 1):
        parts = [backend.infer(images_NCHW[i : i + batch]) for i in range(0, IMAGES, batch)]
        found[batch] = compare_logits(logits_NK, np.concatenate(parts)).sqnr_db
        measured[f"batch {batch} sqnr_db"] = found[batch]
    worst_db = min(found.values())
    if worst_db < least_db:
        raise CheckFailed(f"SQNR against {graphs.reference} {worst_db:.1f} < {least_db:.1f} dB.")


def _export(name: str, folder: Path) -> VerifiedGraphs:
    """The FP32 graph of a model with random weights, and PyTorch's logits."""
    missing = [one for one in ("torch", "onnxslim") if importlib.util.find_spec(one) is None]
    if missing:
        raise MissingEnvironment(
            f"A model is exported with {' and '.join(missing)}, not installed here.",
            f"Give a graph that `hvt-deploy export {name}` wrote elsewhere: "
            f"--model {name}.fp32.onnx",
        )
    from hvt_deploy.graph.torch_export import export_onnx
    from hvt_deploy.models import create_model, get_spec, to_deployed
    from hvt_deploy.models.weights.load import save_reference, seed_random_weights

    spec = get_spec(name)
    graphs = VerifiedGraphs(folder, name, Signature(spec.image_size, spec.num_classes), "PyTorch")
    reference = create_model(name)
    seed_random_weights(reference, 0)
    graph = simplify(export_onnx(to_deployed(reference), graphs.signature, 17), "onnxslim")
    save_onnx(convert_opset(graph, 17), graphs.onnx("fp32"))
    save_reference(reference, graphs.weights)
    with closing(graphs.open("pytorch", "cpu", "fp32", graphs.weights)) as backend:
        np.save(graphs.logits_file, backend.infer(graphs.images_NCHW))
    return graphs


def _take_graph(file: Path, folder: Path) -> VerifiedGraphs:
    """A copy of the FP32 graph, and ONNX Runtime's logits."""
    model = load_onnx(file)
    name = file.stem.removesuffix(".fp32")
    graphs = VerifiedGraphs(folder, name, _read_signature(model, file), "ONNX Runtime")
    save_onnx(model, graphs.onnx("fp32"))
    with closing(graphs.open("ort", "cpu", "fp32")) as backend:
        np.save(graphs.logits_file, backend.infer(graphs.images_NCHW))
    return graphs


def _read_signature(model: onnx.ModelProto, file: Path) -> Signature:
    """Raises BadInput unless it is an FP32 graph from images of any batch size to logits."""
    graph = model.graph
    shapes = [
        [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    ]
    halves = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
    quantized = any(node.op_type in QDQ_OPS for node in graph.node)
    match shapes:
        case [[0, 3, height, width], [0, classes]] if not (halves or quantized):
            names = graph.input[0].name, graph.output[0].name
            return Signature((height, width), classes, None, *names)
        case _:
            raise BadInput(
                f"{file} is not an FP32 graph from images (any batch size) to logits.",
                "Give the file MODEL.fp32.onnx that `hvt-deploy export MODEL` wrote.",
            )


def _quantize(graphs: VerifiedGraphs) -> None:
    """Write the FP16 and INT8 graphs, with ranges of the images that are compared.

    INT8 is placed as for TensorRT-RTX, also for TensorRT, which runs that as well.
    """
    path, batches = graphs.onnx("fp32"), np.array_split(graphs.images_NCHW, 4)
    ranges = collect_ranges(path, batches, threads=cpu_count())
    families = {spec.name: spec.family for spec in list_specs()}
    settings = find_int8_defaults(families.get(graphs.model, ""))
    int8 = Int8Calibration(ranges, attention=settings.int8_attention == "always")
    recipe = GraphRecipe(measured_ranges=True, quantization=settings, target="rtx")
    for precision in ("fp16", "int8", "int8-fp32"):
        model = make_quantized_graph(path, precision, recipe, ranges, int8).model
        save_onnx(model, graphs.onnx(precision))


def _least_sqnr_db(graphs: VerifiedGraphs, precision: EnginePrecision) -> float:
    """The SQNR of ONNX Runtime on the CPU less a margin; there INT8 has FP32 in the rest."""
    if precision == "fp32":
        return FP32_SQNR_DB
    with closing(graphs.open("ort", "cpu", _CPU_PRECISIONS[precision])) as backend:
        logits_NK = backend.infer(graphs.images_NCHW)
    return compare_logits(graphs.logits_NK, logits_NK).sqnr_db - _MARGINS_DB[precision]
