"""Records as `validate` writes them, for the report tests: intervals come from the counts, not from
thin air.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import replace

import numpy as np
from PIL import Image

from hvt_deploy.evaluation.accuracy import measure_accuracy, measure_fidelity
from hvt_deploy.evaluation.image_answers import ImageAnswers, answer_images
from hvt_deploy.evaluation.record import (
    Comparison,
    DataSummary,
    Gate,
    PublishedAccuracy,
    Results,
    Row,
)
from hvt_deploy.evaluation.scores import (
    Accuracy,
    Fidelity,
    GpuState,
    GpuTiming,
    Interval,
    Latency,
    Timing,
    Top1Drop,
)
from hvt_deploy.runtime.base import Launches
from hvt_deploy.runtime.variant import Variant

IMAGES = 500


def wilson(right: int, images: int = IMAGES) -> Interval:
    """Wilson's interval in percent."""
    z, p = 1.96, right / images
    centre = (p + z * z / (2 * images)) / (1 + z * z / images)
    half = (
        z / (1 + z * z / images) * math.sqrt(p * (1 - p) / images + z * z / (4 * images * images))
    )
    return Interval(100 * p, 100 * (centre - half), 100 * min(1.0, centre + half))


def latency(median: float, batch: int = 1) -> Latency:
    return Latency(batch, 0.97 * median, median, 1.06 * median, 1.21 * median, tuple([median] * 40))


PYTORCH = Variant("pytorch", "cpu", "fp32")
FP32, FP16 = Variant("ort", "cpu", "fp32"), Variant("ort", "cpu", "fp16")
CPU_INT8 = Variant("ort", "cpu", "int8", "cpu")
NUMERICS = Variant("ort", "cpu", "int8-fp32", "engine-numerics")


def accuracy(right: int, drop: Top1Drop | None = None, images: int = IMAGES) -> Accuracy:
    return Accuracy(images, wilson(right, images), wilson(images - 1, images), drop, 0)


def dropped(points: tuple[float, float, float], p: float) -> Top1Drop:
    return Top1Drop(Interval(*points), 0, 0, p)


def timing(median: float, speedup: tuple[float, float, float] | None = None) -> Timing:
    return Timing(latency(median), speedup and Interval(*speedup))


def row(variant: Variant, artifact: str | None, model: str = "fdvit_b", **values: object) -> Row:
    return Row(model, variant.name, variant, artifact, **values)


def trained() -> Results:
    """Five backends that ran, two that did not, a gate of each status, two unreadable files."""
    rows = (
        row(
            PYTORCH,
            "weights.safetensors",
            images=IMAGES,
            accuracy=accuracy(487),
            timings=(timing(41.2),),
        ),
        row(
            FP32,
            "fdvit_b.fp32.onnx",
            images=IMAGES,
            accuracy=accuracy(487, dropped((0.0, -0.77, 0.77), 1.0)),
            fidelity=Fidelity(wilson(500), 118.4, None, None),
            timings=(timing(22.5, (1.83, 1.79, 1.88)),),
        ),
        row(
            FP16,
            "fdvit_b.fp16.onnx",
            images=IMAGES,
            accuracy=accuracy(487, dropped((0.0, -0.9, 0.9), 1.0)),
            fidelity=Fidelity(wilson(499), 58.1, None, None),
            note="FP16 is emulated on the CPU: its latency says nothing about a GPU.",
        ),
        row(
            CPU_INT8,
            "fdvit_b.int8-cpu.onnx",
            images=IMAGES,
            accuracy=accuracy(485, dropped((0.4, -0.6, 1.5), 0.625)),
            fidelity=Fidelity(wilson(495), 24.7, None, None),
            timings=(timing(11.0, (3.75, 3.66, 3.84)),),
        ),
        row(
            NUMERICS,
            "fdvit_b.int8-fp32.onnx",
            images=IMAGES,
            accuracy=accuracy(486, dropped((0.2, -0.4, 0.9), 1.0)),
            fidelity=Fidelity(wilson(496), 25.2, None, None),
            note="The engine's own Q/DQ graph with FP32 in the rest: accuracy only.",
        ),
        row(
            Variant("trt", "cuda", "int8"),
            "fdvit_b.int8.rtx-sm86.engine",
            skipped="No NVIDIA GPU was found.",
        ),
        replace(
            row(Variant("ort", "cuda", "fp32"), None, skipped="onnxruntime-gpu is not installed."),
            backend="ort cuda",
        ),
    )
    gates = (
        Gate(
            "max-top1-drop",
            "int8 engine numerics",
            1.0,
            "passed",
            "The drop is at most +0.9 points.",
        ),
        Gate(
            "max-top1-drop",
            "ort int8 cpu",
            1.0,
            "not proven",
            "It may be +1.5 points; 1900 images needed.",
        ),
        Gate("min-speedup", "ort int8 cpu", 4.0, "failed", "At best 3.84 times as fast."),
        Gate("max-latency-ms", "trt int8", 5.0, "skipped", "The backend did not run."),
    )
    data = DataSummary(
        "imagenet/val",
        IMAGES,
        1000,
        "folder names are WordNet ids",
        7,
        IMAGES,
        ("imagenet/val/n01440764/broken.JPEG", "imagenet/val/n01443537/empty.JPEG"),
    )
    return Results(
        model="fdvit_b",
        slug="fdvit_b",
        created="2026-03-04T05:06:07Z",
        untrained=False,
        data=data,
        rows=rows,
        gates=gates,
        verdict="ort int8 cpu is not fast enough: 3.75 times instead of 4 times.",
        warnings=("Latencies were measured while another process used the CPU.",),
        environment={"cpu": "Some CPU @ 2.50 GHz", "threads": "1", "onnxruntime": "1.31.0"},
        provenance={"weights": "official, sha256 0123abcd", "opset": "17"},
    )


def untrained() -> Results:
    """Random weights and one backend besides the reference."""
    rows = (
        row(
            PYTORCH,
            "weights.safetensors",
            "fdvit_ti",
            images=20,
            accuracy=accuracy(0, images=20),
            timings=(timing(9.1),),
        ),
        row(
            FP32,
            "fdvit_ti.fp32.onnx",
            "fdvit_ti",
            images=20,
            accuracy=accuracy(0, dropped((0.0, -16.1, 16.1), 1.0), 20),
            fidelity=Fidelity(wilson(20, 20), 121.0, None, None),
            timings=(timing(4.0, (2.27, 2.2, 2.3)),),
        ),
    )
    return Results(
        model="fdvit_ti",
        slug="fdvit_ti",
        created="2026-03-04T05:06:07Z",
        untrained=True,
        data=DataSummary("val", 20, 10, "folder names are class numbers", 7),
        rows=rows,
        gates=(),
        verdict="Nothing can be said about accuracy: the weights are random.",
        warnings=("The host of the official weights could not be reached.",),
    )


def bare() -> Results:
    """A row with accuracy and no other measurement."""
    only = row(FP32, None, "m", images=10, accuracy=Accuracy(10, wilson(9, 10), None, None, 0))
    return Results(
        "m",
        "m",
        "2026-03-04T05:06:07Z",
        False,
        DataSummary("d", 10, 2, "by name", 0),
        (only,),
        (),
        "One row.",
    )


def detailed(num_classes: int, images: int = 2000) -> Results:
    """A reference, an FP32 and an INT8 backend with everything a record can hold, made from
    answers.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes, images)
    reference = 3.2 * np.eye(num_classes, dtype=np.float32)[labels]
    reference += 1.1 * rng.standard_normal(reference.shape).astype(np.float32)
    int8 = reference + 0.2 * rng.standard_normal(reference.shape).astype(np.float32)
    found = answer_images(
        {"pytorch fp32": reference, "ort fp32": reference + 1e-6, "ort int8 cpu": int8},
        labels,
        np.arange(images),
        [str(i) for i in range(images)],
    )
    plain = trained()
    rows = [
        _measured(row, found, 41.2 / (1 + place))
        if row.backend in ("pytorch fp32", "ort fp32", "ort int8 cpu")
        else replace(row, accuracy=None, fidelity=None, images=0)
        for place, row in enumerate(plain.rows)
    ]
    best = measure_accuracy(found, "pytorch fp32").top1.estimate
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return replace(
        plain,
        rows=tuple(rows),
        data=replace(plain.data, images=images, classes=num_classes),
        published=PublishedAccuracy(best - 0.04, None),
        class_names=names
        if num_classes == 10
        else tuple(f"class <{k}>" for k in range(num_classes)),
        verdict="ort int8 cpu: worse than pytorch fp32 by 0.12 to 1.44 points of top-1 "
        "on 2000 images.",
        errors=("The latency of ort fp32 never became stable, so it proves nothing.",),
        comparisons=(
            Comparison(
                "ort int8 cpu",
                "ort fp32",
                1,
                Interval(2.0, 1.9, 2.1),
                "faster",
                "ort int8 cpu is 1.90 to 2.10 times as fast as ort fp32 at batch 1.",
            ),
        ),
    )


def _measured(row: Row, found: ImageAnswers, median: float) -> Row:
    rng = np.random.default_rng(int(median))
    runs = median * np.exp(np.abs(0.06 * rng.standard_normal(400)))
    quantiles = np.quantile(runs, (0, 0.5, 0.9, 0.99)).tolist()
    timed, fidelity = (
        Latency(1, *quantiles, tuple(runs.tolist())),
        measure_fidelity(found, row.backend),
    )
    if row.backend == "ort int8 cpu":
        timed = replace(timed, clock="CUDA events", gpu=_on_card(0.9 * timed.median))
    speedup = row.timing.speedup if row.timing else None
    over = "" if fidelity is None else "pytorch fp32"
    row = replace(
        row,
        images=len(found.labels),
        accuracy=measure_accuracy(found, row.backend),
        timings=(
            Timing(timed, speedup, over),
            Timing(latency(5 * median, 8), speedup, over),
        ),
        memory_mib=812.0,
    )
    if fidelity is None:
        return row
    flips = tuple(
        replace(f, path=f"val/{f.label}/{f.path}.png", thumbnail=thumbnail(int(f.path)))
        for f in fidelity.flips
    )
    return replace(row, fidelity=replace(fidelity, flips=flips))


def _on_card(back_to_back_ms: float) -> GpuTiming:
    command = "trtexec --loadEngine=m.engine --useCudaGraph"
    launches = Launches(cuda_graph=False, note="No CUDA graph: a capture failed.", trtexec=command)
    state = GpuState("Some GPU", (1400, 1410), 1405, (61.0, 70.2), (50, 55), ("power cap",))
    return GpuTiming(back_to_back_ms, (back_to_back_ms,) * 20, launches, state)


def thumbnail(seed: int) -> str:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((96, 72)).save(stream, "JPEG")
    return base64.b64encode(stream.getvalue()).decode("ascii")
