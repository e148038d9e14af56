"""What speaks against running a CPU variant: logits below its numerics, or less speed than FP32."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from hvt_deploy.core.environment import cpu_name
from hvt_deploy.core.manifest import Manifest, Parity
from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.evaluation.scores import Interval
from hvt_deploy.evaluation.speed_check import find_slowdown
from hvt_deploy.runtime.backend_registry import open_backend
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.variant import Variant

_MOST_BELOW_DB = 3.0


def find_variant_faults(
    parity: Parity, numerics: Parity | None, slowdown: Interval | None
) -> tuple[str, ...]:
    """The reasons, as sentences, not to serve a CPU variant.

    `parity` is its own with FP32, `numerics` that of the signed graph that it was made from, None
    where it was not judged; `slowdown` as by `find_variant_slowdown`.
    """
    faults: list[str] = []
    if numerics and not parity.sqnr_db >= numerics.sqnr_db - _MOST_BELOW_DB:
        faults.append(
            f"Its logits have an SQNR of {parity.sqnr_db:.1f} dB; the engine's numerics, which it "
            f"stands for, have {numerics.sqnr_db:.1f} dB."
        )
    if slowdown:
        faults.append(
            f"It is {slowdown.estimate:.2f} times as fast as FP32 ({slowdown.low:.2f} to "
            f"{slowdown.high:.2f}) on one core of {cpu_name()}."
        )
    return tuple(faults)


def find_variant_slowdown(
    manifest: Manifest, fp32: Path, variant: Path, images_NCHW: ImagesNCHW
) -> Interval | None:
    """How many times as fast as the file `fp32` the file `variant` is, on one thread, where it is
    proven to be slower; None where it is not.
    """
    request = BackendRequest(
        variant=Variant("ort", "cpu", "int8", "cpu"),
        path=variant,
        model=manifest.model,
        signature=manifest.signature,
        threads=1,
        timed_batches=(len(images_NCHW),),
    )
    with (
        closing(open_backend(replace(request, path=fp32))) as plain,
        closing(open_backend(request)) as quantized,
    ):
        return find_slowdown(plain.bind(images_NCHW), quantized.bind(images_NCHW))
