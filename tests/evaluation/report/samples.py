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

from hvt_deploy.evaluation.accuracy import Accuracy, AccuracyMeter
from hvt_deploy.evaluation.record import (
    Comparison,
    DataSummary,
    Flip,
    Gate,
    GpuState,
    Interval,
    Latency,
    Results,
    Row,
    Timing,
)

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


def trained() -> Results:
    """Five backends that ran, two that did not, a gate of each status, two unreadable files."""
    rows = (
        Row(
            "fdvit_b",
            "pytorch fp32",
            "cpu",
            "fp32",
            "weights.safetensors",
            IMAGES,
            wilson(487),
            wilson(499),
            latency_ms=latency(41.2),
            throughput_img_s=24.3,
        ),
        Row(
            "fdvit_b",
            "ort fp32",
            "cpu",
            "fp32",
            "fdvit_b.fp32.onnx",
            IMAGES,
            wilson(487),
            wilson(499),
            wilson(500),
            Interval(0.0, -0.77, 0.77),
            1.0,
            118.4,
            latency(22.5),
            44.4,
            Interval(1.83, 1.79, 1.88),
        ),
        Row(
            "fdvit_b",
            "ort fp16",
            "cpu",
            "fp16",
            "fdvit_b.fp16.onnx",
            IMAGES,
            wilson(487),
            wilson(499),
            wilson(499),
            Interval(0.0, -0.9, 0.9),
            1.0,
            58.1,
            note="FP16 is emulated on the CPU: its latency says nothing about a GPU.",
        ),
        Row(
            "fdvit_b",
            "ort int8 cpu",
            "cpu",
            "int8",
            "fdvit_b.int8-cpu.onnx",
            IMAGES,
            wilson(485),
            wilson(499),
            wilson(495),
            Interval(0.4, -0.6, 1.5),
            0.625,
            24.7,
            latency(11.0),
            90.9,
            Interval(3.75, 3.66, 3.84),
        ),
        Row(
            "fdvit_b",
            "int8 engine numerics",
            "cpu",
            "int8",
            "fdvit_b.int8-fp32.onnx",
            IMAGES,
            wilson(486),
            wilson(499),
            wilson(496),
            Interval(0.2, -0.4, 0.9),
            1.0,
            25.2,
            note="The engine's own Q/DQ graph with FP32 in the rest: accuracy only.",
        ),
        Row(
            "fdvit_b",
            "trt int8",
            "cuda",
            "int8",
            "fdvit_b.int8.rtx-sm86.engine",
            skipped="No NVIDIA GPU was found.",
        ),
        Row(
            "fdvit_b", "ort cuda", "cuda", "fp32", None, skipped="onnxruntime-gpu is not installed."
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
    """Random weights and one backend beside the reference."""
    rows = (
        Row(
            "fdvit_ti",
            "pytorch fp32",
            "cpu",
            "fp32",
            "weights.safetensors",
            20,
            wilson(0, 20),
            wilson(1, 20),
            latency_ms=latency(9.1),
            throughput_img_s=110.0,
        ),
        Row(
            "fdvit_ti",
            "ort fp32",
            "cpu",
            "fp32",
            "fdvit_ti.fp32.onnx",
            20,
            wilson(0, 20),
            wilson(1, 20),
            wilson(20, 20),
            Interval(0.0, -16.1, 16.1),
            1.0,
            121.0,
            latency(4.0),
            250.0,
            Interval(2.27, 2.2, 2.3),
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
    """A row with accuracy alone, and nothing else to tell."""
    row = Row("m", "ort fp32", "cpu", "fp32", None, 10, wilson(9, 10))
    return Results(
        "m",
        "m",
        "2026-03-04T05:06:07Z",
        False,
        DataSummary("d", 10, 2, "by name", 0),
        (row,),
        (),
        "One row.",
    )


def detailed(num_classes: int, images: int = 2000) -> Results:
    """A reference, an FP32 and an INT8 backend with everything a record can hold, made by the meter
    itself.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes, images)
    reference = 3.2 * np.eye(num_classes, dtype=np.float32)[labels]
    reference += 1.1 * rng.standard_normal(reference.shape).astype(np.float32)
    int8 = reference + 0.2 * rng.standard_normal(reference.shape).astype(np.float32)
    meter = AccuracyMeter("pytorch fp32", ["ort fp32", "ort int8 cpu"], num_classes)
    meter.update(
        {"pytorch fp32": reference, "ort fp32": reference + 1e-6, "ort int8 cpu": int8}, labels
    )
    numbers = meter.summarize()
    plain = trained()
    rows = [
        _measured(row, numbers[row.backend], 41.2 / (1 + place))
        if row.backend in numbers
        else replace(row, top1=None, top5=None, agreement=None, top1_drop=None, images=0)
        for place, row in enumerate(plain.rows)
    ]
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return replace(
        plain,
        rows=tuple(rows),
        data=replace(plain.data, images=images, classes=num_classes),
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
        gpu=(GpuState("Some GPU", 1, (1400, 1410), (61.0, 70.2), (50, 55), ("power cap",), 0.71),),
    )


def _measured(row: Row, accuracy: Accuracy, median: float) -> Row:
    rng = np.random.default_rng(int(median))
    runs = median * np.exp(np.abs(0.06 * rng.standard_normal(400)))
    quantiles = np.quantile(runs, (0, 0.5, 0.9, 0.99)).tolist()
    timed, against = Latency(1, *quantiles, tuple(runs.tolist())), accuracy.against_reference
    row = replace(
        row,
        images=accuracy.images,
        top1=accuracy.top1,
        top5=accuracy.top5,
        latency_ms=timed,
        memory_mib=812.0,
        throughput_img_s=1000 / median,
        classes=accuracy.classes,
        confusions=accuracy.confusions,
        curves=accuracy.curves,
        published_top1=accuracy.top1.estimate - 0.04,
        other_batches=(Timing(latency(5 * median, 8), 1600 / median, row.speedup),),
    )
    if against is None:
        return row
    flips = tuple(
        Flip(f"val/{f.label}/{f.index}.png", f.label, f.reference, f.candidate, thumbnail(f.index))
        for f in against.flips
    )
    return replace(
        row,
        agreement=against.agreement,
        top1_drop=against.top1_drop,
        mcnemar_p=against.mcnemar_p,
        flips=flips,
        sqnr_db=against.sqnr_db,
        logit_cosine=against.cosine,
        logit_max_abs=against.max_abs,
        speedup_over="pytorch fp32",
    )


def thumbnail(seed: int) -> str:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((96, 72)).save(stream, "JPEG")
    return base64.b64encode(stream.getvalue()).decode("ascii")
