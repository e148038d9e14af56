"""INT8 graphs of other quantizers, made from an FP32 file on the images that ours are made on.

ModelOpt and NNCF pin other versions of onnx, so each runs in a Python of its own:

    python -m venv M; M/bin/pip install 'nvidia-modelopt[onnx]'
    python -m venv N; N/bin/pip install nncf openvino onnx
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK

ORT, ORT_PER_CHANNEL = "quantize_static", "quantize_static, per channel"
MODELOPT_MAX, MODELOPT_ENTROPY = "ModelOpt, max", "ModelOpt, entropy"
NNCF_PERFORMANCE, NNCF_MIXED = "NNCF, performance", "NNCF, mixed"
PEERS = (ORT, ORT_PER_CHANNEL, MODELOPT_MAX, MODELOPT_ENTROPY, NNCF_PERFORMANCE, NNCF_MIXED)
_MODELOPT_CODE = """
import sys, numpy as np
from modelopt.onnx.quantization import quantize
source, images, method, target = sys.argv[1:]
quantize(source, calibration_data={"images": np.load(images)}, calibration_method=method,
         calibration_eps=["cpu"], output_path=target, high_precision_dtype="fp32",
         log_level="ERROR")
"""
# Logits of the quantized model, and how many times as fast it is as its FP32, both in OpenVINO.
_NNCF_CODE = """
import sys, time, numpy as np, nncf, openvino as ov
source, images, test, preset, target = sys.argv[1:]
images, test, core = np.load(images), np.load(test), ov.Core()
plain = core.read_model(source)
made = nncf.quantize(core.read_model(source), nncf.Dataset([i[None] for i in images]),
                     preset=getattr(nncf.QuantizationPreset, preset), subset_size=len(images))
settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
fp32, int8 = (core.compile_model(model, "CPU", settings) for model in (plain, made))
logits = np.concatenate([int8(test[i:i + 1])[0] for i in range(len(test))])
def once(model):
    start = time.perf_counter()
    model(test[:1])
    return time.perf_counter() - start
ratios = [np.median([once(fp32) for _ in range(10)]) / np.median([once(int8) for _ in range(10)])
          for _ in range(20)]
np.savez(target, logits=logits, speedup=np.median(ratios))
"""


@dataclass(frozen=True)
class Pythons:
    """Interpreters of other environments; None leaves their quantizers out."""

    modelopt: str | None
    """Has nvidia-modelopt[onnx]."""
    nncf: str | None
    """Has nncf and openvino."""


@dataclass(frozen=True)
class OtherInt8:
    """The result of another quantizer: a graph for ONNX Runtime, or logits, or neither."""

    graph: Path | None = None
    """An ONNX file."""
    logits_NK: LogitsNK | None = None  # noqa: N815
    """Logits (N, K) of the test images, where another runtime computed them."""
    speedup: float | None = None
    """How many times as fast as FP32 it is in that runtime."""
    missing: str = ""
    """Why there is neither."""


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
    fp32: Path, images_NCHW: ImagesNCHW, test_NCHW: ImagesNCHW, folder: Path, pythons: Pythons
) -> dict[str, OtherInt8]:
    """The result of each of `PEERS`; their files are written into `folder`."""
    from onnxruntime.quantization import (
        quantize_static,  # pyright: ignore[reportUnknownVariableType]
    )

    made: dict[str, OtherInt8] = {}
    for name, per_channel in ((ORT, False), (ORT_PER_CHANNEL, True)):
        path = folder / f"ort{per_channel:d}.onnx"
        quantize_static(fp32, path, Reader(images_NCHW), per_channel=per_channel)  # pyright: ignore[reportArgumentType] - as its own
        made[name] = OtherInt8(path)
    np.save(folder / "images.npy", images_NCHW)
    np.save(folder / "test.npy", test_NCHW)
    for name, method in ((MODELOPT_MAX, "max"), (MODELOPT_ENTROPY, "entropy")):
        target = folder / f"modelopt_{method}.onnx"
        arguments = [str(fp32), str(folder / "images.npy"), method, str(target)]
        why = _run_elsewhere(pythons.modelopt, _MODELOPT_CODE, arguments)
        made[name] = OtherInt8(missing=why) if why else OtherInt8(target)
    for name, preset in ((NNCF_PERFORMANCE, "PERFORMANCE"), (NNCF_MIXED, "MIXED")):
        target = folder / f"nncf_{preset}.npz"
        arguments = [str(fp32), str(folder / "images.npy"), str(folder / "test.npy"), preset]
        why = _run_elsewhere(pythons.nncf, _NNCF_CODE, [*arguments, str(target)])
        if why:
            made[name] = OtherInt8(missing=why)
        else:
            with np.load(target) as found:
                made[name] = OtherInt8(None, found["logits"], float(found["speedup"]))
    return made


def _run_elsewhere(python: str | None, code: str, arguments: list[str]) -> str:
    """Why `code` did not run to its end in another Python; "" if it did."""
    if python is None:
        return "not run"
    command = [python, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed"])[-1]
