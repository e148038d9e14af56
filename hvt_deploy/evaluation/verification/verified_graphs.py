"""The graphs that the sections compare on a GPU: a model with seeded random weights, exported to
each precision once and kept in the folder that the sections share.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from hvt_deploy.core.environment import cpu_count, require
from hvt_deploy.core.errors import CheckFailed
from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK, Signature
from hvt_deploy.core.types import Device, Precision, Runtime
from hvt_deploy.evaluation.parity import compare_logits, draw_seeded_noise
from hvt_deploy.evaluation.verification.checks import Fact
from hvt_deploy.graph.analysis.roles import DEFAULT_INT8_ROLES
from hvt_deploy.graph.opset import convert_opset
from hvt_deploy.graph.quantization.fp16 import to_fp16
from hvt_deploy.graph.quantization.qdq import quantize_int8
from hvt_deploy.graph.quantization.ranges import collect_ranges
from hvt_deploy.graph.simplify import simplify
from hvt_deploy.graph.storage import save_onnx
from hvt_deploy.runtime.backend_registry import open_backend
from hvt_deploy.runtime.base import Backend, BackendRequest
from hvt_deploy.runtime.variant import Form, Variant

EnginePrecision = Literal["fp32", "fp16", "int8"]
ENGINE_PRECISIONS: tuple[EnginePrecision, ...] = ("fp32", "fp16", "int8")
IMAGES = 16
# FP32 that is really TF32 (10 bits of mantissa) is at about 63 dB.
FP32_SQNR_DB = 90.0
# How much further from PyTorch than ONNX Runtime on the CPU a GPU may be with the same graph.
_MARGIN_DB = 3.0
_RECORD = "graphs.json"
# FP16 between Q and DQ is wrong in ONNX Runtime on the CPU.
_CPU_PRECISIONS: Mapping[EnginePrecision, Precision] = {"fp16": "fp16", "int8": "int8-fp32"}


@dataclass(frozen=True)
class VerifiedGraphs:
    """A model and its graphs, in one folder."""

    folder: Path
    """Holds the graph of each precision, the reference's weights and logits."""
    model: str
    """Name of the model."""
    signature: Signature
    """Of the graphs."""
    least_sqnr_db: Mapping[EnginePrecision, float] = field(
        default_factory=dict[EnginePrecision, float]
    )
    """SQNR against the reference that each precision has to reach on a GPU."""

    def onnx(self, precision: Precision) -> Path:
        """The graph of a precision."""
        return self.folder / f"{self.model}.{precision}.onnx"

    @property
    def weights(self) -> Path:
        """The reference's weights."""
        return self.folder / f"{self.model}.safetensors"

    @property
    def images_NCHW(self) -> ImagesNCHW:  # noqa: N802
        """Images of seeded noise (IMAGES, 3, H, W), which the graphs are calibrated on too."""
        return draw_seeded_noise(self.signature, IMAGES, seed=0)

    @property
    def logits_NK(self) -> LogitsNK:  # noqa: N802
        """Logits (IMAGES, K) of these images, by PyTorch in FP32 on the CPU."""
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


def prepare_graphs(model: str, folder: Path) -> VerifiedGraphs:
    """The graphs in `folder`, made now if no section did; needs no GPU.

    Raises MissingEnvironment without PyTorch, onnxslim or ONNX Runtime.
    """
    record = folder / _RECORD
    if record.is_file():
        return from_plain(VerifiedGraphs, json.loads(record.read_text(encoding="utf-8")))
    for module, extra in {"torch": "export", "onnxslim": "export", "onnxruntime": "cpu"}.items():
        require(module, extra)
    graphs = _export(model, folder)
    record.write_text(json.dumps(to_plain(graphs)), encoding="utf-8")
    return graphs


def compare_with_reference(
    backend: Backend, graphs: VerifiedGraphs, precision: EnginePrecision, measured: dict[str, Fact]
) -> None:
    """Raises CheckFailed unless the logits of every batch size are as near to PyTorch's as the
    precision allows.
    """
    images_NCHW, logits_NK = graphs.images_NCHW, graphs.logits_NK
    least_db = graphs.least_sqnr_db[precision]
    measured["least sqnr_db"] = least_db
    found: dict[int, float] = {}
    for batch in (IMAGES, 5, 1):
        found[batch] = compare_logits(logits_NK[:batch], backend.infer(images_NCHW[:batch])).sqnr_db
        measured[f"batch {batch} sqnr_db"] = found[batch]
    if min(found.values()) < least_db:
        raise CheckFailed(f"SQNR against PyTorch {min(found.values()):.1f} < {least_db:.1f} dB.")


def _export(model: str, folder: Path) -> VerifiedGraphs:
    from hvt_deploy.graph.torch_export import export_onnx
    from hvt_deploy.models import create_model, get_spec, to_deployed
    from hvt_deploy.models.weights.load import save_reference, seed_random_weights

    spec = get_spec(model)
    graphs = VerifiedGraphs(folder, model, Signature(spec.image_size, spec.num_classes))
    reference = create_model(model)
    seed_random_weights(reference, 0)
    graph = simplify(export_onnx(to_deployed(reference), graphs.signature, 17), "onnxslim")
    fp32 = convert_opset(graph, 17)
    save_onnx(fp32, graphs.onnx("fp32"))
    batches = np.array_split(graphs.images_NCHW, 4)
    ranges = collect_ranges(graphs.onnx("fp32"), batches, threads=cpu_count())
    quantized = quantize_int8(convert_opset(graph, 19), ranges, DEFAULT_INT8_ROLES)
    save_onnx(to_fp16(fp32, ranges).model, graphs.onnx("fp16"))
    save_onnx(to_fp16(quantized, ranges).model, graphs.onnx("int8"))
    save_onnx(quantized, graphs.onnx("int8-fp32"))
    save_reference(reference, graphs.weights)
    with closing(graphs.open("pytorch", "cpu", "fp32", graphs.weights)) as backend:
        np.save(graphs.logits_file, backend.infer(graphs.images_NCHW))
    return replace(graphs, least_sqnr_db={p: _least_sqnr_db(graphs, p) for p in ENGINE_PRECISIONS})


def _least_sqnr_db(graphs: VerifiedGraphs, precision: EnginePrecision) -> float:
    """The SQNR of ONNX Runtime on the CPU less a margin; there INT8 has FP32 in the rest."""
    if precision == "fp32":
        return FP32_SQNR_DB
    with closing(graphs.open("ort", "cpu", _CPU_PRECISIONS[precision])) as backend:
        logits_NK = backend.infer(graphs.images_NCHW)
    return compare_logits(graphs.logits_NK, logits_NK).sqnr_db - _MARGIN_DB
