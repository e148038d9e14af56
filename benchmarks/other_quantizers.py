"""Graphs of two other quantizers, made from an FP32 file with their defaults, and their engines."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.records import Record
from hvt_deploy.core.errors import HvtDeployError
from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.runtime.tensorrt.audit import audit_layers
from hvt_deploy.runtime.tensorrt.build import build_engine
from hvt_deploy.runtime.tensorrt.plan import BuildPlan, Profile

ORT, MODELOPT = "onnxruntime quantize_static", "ModelOpt"
CAPABILITY = "8.6"
MODELOPT_CODE = """
import sys, numpy as np
from modelopt.onnx.quantization import quantize
source, images, target = sys.argv[1:]
quantize(source, calibration_data={"images": np.load(images)}, calibration_eps=["cpu"],
         output_path=target, high_precision_dtype="fp32", log_level="ERROR")
"""


class Reader:
    """Calibration images for onnxruntime's quantizer, a `CalibrationDataReader`."""

    def __init__(self, images_NCHW: ImagesNCHW) -> None:
        self._batches: Iterator[ImagesNCHW] = iter(
            images_NCHW[i : i + 8] for i in range(0, len(images_NCHW), 8)
        )

    def get_next(self) -> dict[str, ImagesNCHW] | None:
        """The next batch, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def quantize_others(
    fp32: Path, images_NCHW: ImagesNCHW, folder: Path, modelopt: str | None
) -> dict[str, Path | str]:
    """The other quantizers' files by name, or why there is none."""
    from onnxruntime.quantization import (
        quantize_static,  # pyright: ignore[reportUnknownVariableType]
    )

    made: dict[str, Path | str] = {ORT: folder / "ort.onnx", MODELOPT: "not run"}
    quantize_static(fp32, folder / "ort.onnx", Reader(images_NCHW))  # pyright: ignore[reportArgumentType] - as its own
    if modelopt:
        np.save(folder / "images.npy", images_NCHW)
        target = folder / "modelopt.onnx"
        command = [
            modelopt,
            "-c",
            MODELOPT_CODE,
            str(fp32),
            str(folder / "images.npy"),
            str(target),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        made[MODELOPT] = (
            target if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed"])[-1]
        )
    return made


def build_other(path: Path, folder: Path) -> Record:
    """Kernels of the TensorRT-RTX engine of another quantizer's graph, or why there is none."""
    plan = BuildPlan(
        path, folder / "other.engine", "tensorrt_rtx", (CAPABILITY,), (Profile(1, 8, 32),), 4096
    )
    try:
        audit = audit_layers(build_engine(plan).layers)
    except HvtDeployError as error:
        return {"refused": error.message}
    return {"kernels": audit.kernels, "int8_layers": audit.layers.int8}
