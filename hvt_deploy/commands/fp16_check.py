"""Whether an FP16 graph loses more than rounding to FP16 by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hvt_deploy.core.environment import cpu_count
from hvt_deploy.core.errors import CheckFailed
from hvt_deploy.core.manifest import Parity
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.evaluation.parity import compare_logits
from hvt_deploy.evaluation.statistics import mcnemar_exact
from hvt_deploy.graph.quantization.fp16_rounding import round_as_fp16
from hvt_deploy.graph.quantization.logits_judge import run_logits
from hvt_deploy.graph.storage import load_onnx

# Twice the error of rounding alone. Sound FP16 graphs were between 1 dB below it and 7 above:
# ONNX Runtime rounds less often, and what FP16 cannot hold is FP32.
_MAY_LOSE_DB = 6.0
# An error of 0.3 % that changes no class is no loss, whatever rounding alone would give.
_CERTAIN_DB = 50.0
_SIGNIFICANT = 0.05


def infer_rounded(fp32: Path, images_NCHW: ImagesNCHW) -> LogitsNK:
    """Logits (N, K) of the FP32 graph with every tensor rounded as FP16 rounds it."""
    rounded = round_as_fp16(load_onnx(fp32, weights=False))
    return run_logits(rounded, [images_NCHW], cpu_count(), fp32.parent)


def check_fp16(
    slug: str, reference_NK: LogitsNK, found_NK: LogitsNK, infer_rounded: Callable[[], LogitsNK]
) -> Parity | None:
    """The parity of rounding alone with FP32's logits `reference_NK`; None where the FP16 graph's,
    `found_NK`, are so near these that it need not be known.

    Raises CheckFailed where they have more than twice the error of those of `infer_rounded`, or
    give significantly fewer images the class of FP32.
    """
    found = compare_logits(reference_NK, found_NK)
    if found.sqnr_db >= _CERTAIN_DB and found.same_argmax:
        return None
    rounded_NK = infer_rounded()
    rounding = compare_logits(reference_NK, rounded_NK)
    expected_N, same_N = (
        one_NK.argmax(axis=1) == reference_NK.argmax(axis=1) for one_NK in (rounded_NK, found_NK)
    )
    lost, won = int((expected_N & ~same_N).sum()), int((same_N & ~expected_N).sum())
    agrees_less = lost > won and mcnemar_exact(lost, won) < _SIGNIFICANT
    if agrees_less or not found.sqnr_db >= rounding.sqnr_db - _MAY_LOSE_DB:
        raise CheckFailed(
            f"The FP16 graph of {slug} loses more than rounding to FP16 does: SQNR "
            f"{found.sqnr_db:.1f} dB against FP32 instead of {rounding.sqnr_db:.1f} dB, the class "
            f"of {same_N.sum()} instead of {expected_N.sum()} of {len(same_N)} images.",
            "Calibrate on images the model was trained for (--calib DIR), so that large ranges "
            "stay FP32.",
        )
    return rounding
