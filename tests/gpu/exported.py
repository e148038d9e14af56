"""The model that the GPU tests compare backends on: seeded random weights, exported to each
precision.
"""
# ruff: noqa: N815 - axis suffixes

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from safetensors.torch import save_model

from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK, Signature
from hvt_deploy.core.types import Device, Precision, Runtime
from hvt_deploy.evaluation.parity import compare_logits, draw_seeded_noise
from hvt_deploy.graph.analysis.roles import DEFAULT_INT8_ROLES
from hvt_deploy.graph.opset import convert_opset
from hvt_deploy.graph.quantization.fp16 import to_fp16
from hvt_deploy.graph.quantization.qdq import quantize_int8
from hvt_deploy.graph.quantization.ranges import collect_ranges
from hvt_deploy.graph.simplify import simplify
from hvt_deploy.graph.storage import save_onnx
from hvt_deploy.graph.torch_export import export_onnx
from hvt_deploy.models import create_model, get_spec, to_deployed
from hvt_deploy.runtime.backend_registry import open_backend
from hvt_deploy.runtime.base import Backend, BackendRequest
from hvt_deploy.runtime.variant import Form, Variant

if TYPE_CHECKING:
    from torch import nn

MODEL = os.environ.get("GPU_CHECK_MODEL", "fdvit_ti")
EnginePrecision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[EnginePrecision, ...] = ("fp32", "fp16", "int8")
IMAGES = 16
# FP32 that is really TF32 (10 bits of mantissa) is at about 63 dB.
_FP32_SQNR_DB = 90.0
# How much further from PyTorch than ONNX Runtime on the CPU a GPU may be with the same graph.
_MARGIN_DB = 3.0


class Record(Protocol):
    """Keeps a measurement."""

    def __call__(self, **facts: object) -> None: ...


@dataclass(frozen=True)
class Exported:
    """A model and its graphs.

    Attributes:
        folder: holds the graph of each precision.
        signature: of the graphs.
        images_NCHW: images of seeded noise, which the graphs are calibrated on too.
        logits_NK: logits of these images, by PyTorch in FP32 on the CPU.
        least_sqnr_db: SQNR against these logits that each precision has to reach on a GPU.
    """

    folder: Path
    signature: Signature
    images_NCHW: ImagesNCHW
    logits_NK: LogitsNK
    least_sqnr_db: Mapping[EnginePrecision, float]

    def onnx(self, precision: Precision) -> Path:
        """The graph of a precision."""
        return self.folder / f"{MODEL}.{precision}.onnx"

    @property
    def weights(self) -> Path:
        """The reference's weights."""
        return self.folder / f"{MODEL}.safetensors"

    def open(
        self,
        runtime: Runtime,
        device: Device,
        precision: Precision,
        path: Path,
        form: Form = "plain",
    ) -> Backend:
        """The backend that runs the artifact `path`."""
        variant = Variant(runtime, device, precision, form)
        return open_backend(BackendRequest(variant, path, MODEL, self.signature, threads=4))


def export_model(folder: Path) -> Exported:
    """Export `MODEL` with seeded random weights in every precision; needs no GPU."""
    spec = get_spec(MODEL)
    signature = Signature(spec.image_size, spec.num_classes)
    images_NCHW = draw_seeded_noise(signature, IMAGES, seed=0)
    reference = create_reference()
    graph = simplify(export_onnx(to_deployed(reference), signature, 17), "onnxslim")
    fp32 = convert_opset(graph, 17)
    exported = Exported(folder, signature, images_NCHW, np.empty((0, 0), np.float32), {})
    save_onnx(fp32, exported.onnx("fp32"))
    ranges = collect_ranges(exported.onnx("fp32"), np.array_split(images_NCHW, 4), threads=4)
    quantized = quantize_int8(convert_opset(graph, 19), ranges, DEFAULT_INT8_ROLES)
    save_onnx(to_fp16(fp32, ranges).model, exported.onnx("fp16"))
    save_onnx(to_fp16(quantized, ranges).model, exported.onnx("int8"))
    save_onnx(quantized, exported.onnx("int8-fp32"))
    save_model(reference, str(exported.weights))
    with closing(exported.open("pytorch", "cpu", "fp32", exported.weights)) as backend:
        exported = replace(exported, logits_NK=backend.infer(images_NCHW))
    return replace(exported, least_sqnr_db={p: _least_sqnr_db(exported, p) for p in PRECISIONS})


def create_reference() -> nn.Module:
    """The reference form with the same random weights every time."""
    import torch

    torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]
    return create_model(MODEL)


def _least_sqnr_db(exported: Exported, precision: EnginePrecision) -> float:
    """The SQNR of ONNX Runtime on the CPU less a margin; there INT8 has FP32 in the rest."""
    if precision == "fp32":
        return _FP32_SQNR_DB
    path = exported.onnx("int8-fp32" if precision == "int8" else precision)
    with closing(exported.open("ort", "cpu", precision, path)) as backend:
        logits_NK = backend.infer(exported.images_NCHW)
    return compare_logits(exported.logits_NK, logits_NK).sqnr_db - _MARGIN_DB
