"""The CPU variant, judged by its logits: the nodes on which its passes lose more than 8-bit
arithmetic itself compute in floating point.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx

from hvt_deploy.core.tensors import LogitsNK
from hvt_deploy.graph.edit import copy_model
from hvt_deploy.graph.quantization.cpu_int8 import find_quantized, make_cpu_variant
from hvt_deploy.graph.quantization.fp16 import KeptNode
from hvt_deploy.graph.quantization.ranges import Ranges

# The logits (N, K) of a graph for the images of the comparison.
InferGraph: TypeAlias = Callable[[onnx.ModelProto], LogitsNK]
# What the variant may lose against the engine's numerics before its nodes are looked at.
VARIANT_MAY_LOSE_DB = 1.0
# Each is a session and its images. Nodes that are not decided by then stay in floating point.
_MOST_TRIALS = 20
_BOOTSTRAP_SAMPLES = 1000


@dataclass(frozen=True)
class JudgedVariant:
    """A CPU variant and the engine's numerics that it was judged against."""

    model: onnx.ModelProto
    """The variant."""
    kept_fp32: tuple[KeptNode, ...]
    """The nodes that its passes lost too much on."""
    logits_NK: LogitsNK  # noqa: N815
    """Its logits."""
    numerics_NK: LogitsNK  # noqa: N815
    """Those of the signed graph that it was made from."""


def make_judged_variant(
    signed: onnx.ModelProto,
    ranges: Ranges,
    reference_NK: LogitsNK,
    infer: InferGraph,
    fill: Callable[[onnx.ModelProto], onnx.ModelProto],
) -> JudgedVariant:
    """The CPU variant of `signed`, whose nodes stay in floating point where its passes lose: by its
    logits it is at most 1 dB below `signed`, if that can be had so.

    `reference_NK` are the logits of FP32. `fill` inserts the weights of a graph whose weights are
    placeholders, in place, and returns it.
    """
    numerics_NK = infer(fill(copy_model(signed)))

    def try_without(left_out: Collection[str]) -> tuple[onnx.ModelProto, LogitsNK]:
        variant = fill(make_cpu_variant(signed, ranges, left_out))
        return variant, infer(variant)

    def is_lossy(left_out: Collection[str]) -> bool:
        return _loses(reference_NK, numerics_NK, try_without(left_out)[1])

    variant, logits_NK = try_without(())
    left_out: Sequence[str] = ()
    if _loses(reference_NK, numerics_NK, logits_NK):
        names = [node.name for node in find_quantized(signed, "Conv", "Gemm")]
        if not is_lossy(names):
            left_out = _bisect(names, is_lossy)
            variant, logits_NK = try_without(left_out)
    why = f"in INT8 the CPU variant is more than {VARIANT_MAY_LOSE_DB:g} dB below the engine's"
    kept = tuple(KeptNode(name, why) for name in left_out)
    return JudgedVariant(variant, kept, logits_NK, numerics_NK)


def _loses(reference_NK: LogitsNK, numerics_NK: LogitsNK, logits_NK: LogitsNK) -> bool:
    """Whether the noise grew by more than 1 dB, and by the paired bootstrap over the images it did
    grow: where all is well, rounding alone moves the SQNR of some images up and down.
    """
    noise_2N = np.array(
        [
            np.square(found_NK.astype(np.float64) - reference_NK).sum(axis=1)
            for found_NK in (numerics_NK, logits_NK)
        ]
    )
    if not np.isfinite(noise_2N[1]).all():
        return True
    images = noise_2N.shape[1]
    picks = np.random.default_rng(0).integers(0, images, (_BOOTSTRAP_SAMPLES, images))
    before, after = noise_2N[:, picks].sum(axis=2)
    grown = noise_2N[1].sum() > noise_2N[0].sum() * 10 ** (VARIANT_MAY_LOSE_DB / 10)
    return bool(grown and np.quantile(after - before, 0.025) > 0)


def _bisect(names: Sequence[str], is_lossy: Callable[[Collection[str]], bool]) -> list[str]:
    """The names that are left out: a part comes back where nothing is lost with it, else each of
    its halves is tried.
    """
    left_out = set(names)
    parts = deque(_halve(names))
    for _ in range(_MOST_TRIALS):
        if not parts:
            break
        part = parts.popleft()
        if not is_lossy(left_out - {*part}):
            left_out -= {*part}
        elif len(part) > 1:
            parts += _halve(part)
    return [name for name in names if name in left_out]


def _halve(names: Sequence[str]) -> list[Sequence[str]]:
    half = (len(names) + 1) // 2
    return [part for part in (names[:half], names[half:]) if part]
