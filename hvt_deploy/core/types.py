"""The vocabulary that several packages share.

Standard library only: it is copied into Triton packages too.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args

StrPath: TypeAlias = str | PathLike[str]
# `int8` has FP16 in the rest, `int8-fp32` FP32.
Precision = Literal["fp32", "fp16", "int8", "int8-fp32"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Simplifier = Literal["onnxsim", "onnxslim", "none"]
# A method that chooses the range which INT8 covers; `auto` takes one, or one for each tensor, by
# the logits.
Calibrator = Literal["max", "percentile", "entropy", "mse"]
CALIBRATORS: tuple[Calibrator, ...] = get_args(Calibrator)
CalibratorChoice = Literal["auto", "max", "percentile", "entropy", "mse"]
# Passes over an FP32 graph that win back accuracy which INT8 loses.
Recovery = Literal["smooth-quant", "bias-correction", "weight-rounding"]
RECOVERIES: tuple[Recovery, ...] = get_args(Recovery)
# The Python module of a TensorRT library; a choice may leave it to the machine.
FlavourName = Literal["tensorrt", "tensorrt_rtx"]
FlavourChoice = Literal["auto", "tensorrt", "rtx"]
# The TensorRT library that INT8 is placed for; whether attention is INT8: `auto` is by the logits.
Int8Target = Literal["rtx", "tensorrt"]
Int8Attention = Literal["auto", "always", "never"]
# `ort-trt` is the TensorRT provider of ONNX Runtime.
Runtime = Literal["pytorch", "ort", "ort-trt", "trt"]
Device = Literal["cpu", "cuda"]
# The backends of Triton that can run an ONNX file.
OnnxPlatform = Literal["onnxruntime", "python"]
SubsetName = Literal["imagenet-a", "imagenet-r", "imagenet-v2"]
# Where exported models are, relative to the current folder.
DEFAULT_WORKSPACE = Path("artifacts")
# Where validation images are.
DEFAULT_IMAGES = Path("imagenet/val")
SUBSETS: tuple[SubsetName, ...] = get_args(SubsetName)
MAX_BATCH = 1024
MAX_THREADS = 1024


@dataclass(frozen=True)
class Between:
    """The range of a number, or of how many values a list has; `Annotated[int, Between(1, 8)]`."""

    low: float
    """The smallest."""
    high: float
    """The largest."""


BatchSize = Annotated[int, Between(1, MAX_BATCH)]
Seed = Annotated[int, Between(0, 2**32 - 1)]
ImageSide = Annotated[int, Between(1, 16384)]
_Mean = Annotated[float, Between(-1000, 1000)]
_Std = Annotated[float, Between(1e-4, 1000)]


@dataclass(frozen=True)
class Preprocessing:
    """The evaluation transform of a model, in timm's terms.

    `image_size` is (height, width). `center`: resize the shorter edge to floor(size / crop_pct),
    crop the centre. `squash`: resize both edges to floor(size / crop_pct) whatever the aspect
    ratio, crop the centre. Pixels are scaled to 0..1, then (x - mean) / std per channel.
    """

    image_size: tuple[ImageSide, ImageSide]
    """(height, width) of the input."""
    crop_pct: Annotated[float, Between(0.01, 1)] = 0.875
    """Share of the resized image that is kept."""
    crop_mode: Literal["center", "squash"] = "center"
    """How the image is resized before the crop."""
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    """Of the resize."""
    mean: tuple[_Mean, _Mean, _Mean] = (0.485, 0.456, 0.406)
    """Per channel, of pixels in 0..1."""
    std: tuple[_Std, _Std, _Std] = (0.229, 0.224, 0.225)
    """Per channel, of pixels in 0..1."""


@dataclass(frozen=True)
class Skipped:
    """A thing not done."""

    what: str
    """Its name."""
    why: str
    """The reason."""
