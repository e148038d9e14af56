"""What a change of an INT8 graph does to its logits, and whether it is worth it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK, signal_and_noise, sqnr_db
from hvt_deploy.graph.quantization.int8_calibration import Effect
from hvt_deploy.graph.quantization.ort_session import open_graph
from hvt_deploy.graph.quantization.qdq import quantize_int8
from hvt_deploy.graph.quantization.ranges import Ranges

# A pass that gains less than this is not worth a change of the graph.
_WORTH_DB = 0.1


@dataclass(frozen=True)
class LogitsJudge:
    """Measures the logits of INT8 graphs against those of FP32."""

    roles: tuple[str, ...]
    """Roles of the nodes that get Q/DQ."""
    images: Sequence[ImagesNCHW]
    """Images (N, 3, H, W) in batches."""
    threads: int
    """CPU threads of ONNX Runtime."""
    reference_NK: LogitsNK  # noqa: N815
    """Logits of the FP32 graph for these images."""

    def measure_db(self, model: onnx.ModelProto, ranges: Ranges) -> float:
        """The SQNR of the logits of `model` in INT8."""
        return self.compare(quantize_int8(model, ranges, self.roles))

    def compare(self, quantized: onnx.ModelProto) -> float:
        """The SQNR of the logits of an INT8 graph."""
        found_NK = run_logits(quantized, self.images, self.threads)
        return sqnr_db(*signal_and_noise(self.reference_NK, found_NK))


def run_logits(model: onnx.ModelProto, images: Sequence[ImagesNCHW], threads: int) -> LogitsNK:
    """Logits (N, K) of a graph for batches (N, 3, H, W), by ONNX Runtime on the CPU."""
    run, output = open_graph(model, Path(), threads), model.graph.output[0].name
    return np.concatenate([logits_NK for (logits_NK,) in run([output], images)])


def judge_effect(
    name: str, before_db: float, after_db: float, worth_db: float = _WORTH_DB
) -> Effect:
    """The record of a pass, kept if it gains at least `worth_db`."""
    return Effect(name, before_db, after_db, kept=after_db > before_db + worth_db)
