"""The model that the GPU tests compare backends on."""
# ruff: noqa: N815 - axis suffixes

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK, Signature
from hvt_deploy.core.types import Device, Runtime
from hvt_deploy.runtime.base import Backend, BackendRequest

MODEL = os.environ.get("GPU_CHECK_MODEL", "fdvit_ti")
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Exported:
    """A model with seeded random weights: its graphs by precision, and what PyTorch says on the CPU
    to `images`.
    """

    folder: Path
    signature: Signature
    images_NCHW: ImagesNCHW
    logits_NK: LogitsNK

    def onnx(self, precision: str) -> Path:
        return self.folder / f"{MODEL}.{precision}.onnx"

    def request(
        self, runtime: Runtime, device: Device, precision: str, path: Path
    ) -> BackendRequest:
        name = f"{runtime} {device} {precision}"
        return BackendRequest(
            name, runtime, device, precision, path, MODEL, self.signature, threads=4
        )

    def open(self, runtime: Runtime, device: Device, precision: str, path: Path) -> Backend:
        from hvt_deploy.runtime.registry import open_backend

        return open_backend(
            self.request(runtime, device, precision, path), lambda _: reference_model()
        )


def reference_model():
    """The reference form with the same random weights every time."""
    import torch

    from hvt_deploy.models import create_model

    torch.manual_seed(0)
    return create_model(MODEL)
