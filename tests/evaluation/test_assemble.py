"""From measurements to the record: published results are shown next to measured ones, where
that is comparable.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from builders import answered, on_card, row_of, windows

from hvt_deploy.commands.config import config_of
from hvt_deploy.core import environment
from hvt_deploy.core.manifest import (
    Artifact,
    CalibrationFacts,
    GraphFacts,
    Manifest,
    Parity,
    WeightsRecord,
)
from hvt_deploy.core.run_config import with_flags
from hvt_deploy.core.tensors import Signature
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.core.workspace import now
from hvt_deploy.data.class_names import load_imagenet_1k
from hvt_deploy.evaluation.assemble import Measured, add_timings, conclude
from hvt_deploy.evaluation.image_answers import join_answers
from hvt_deploy.evaluation.record import DataSummary, PublishedAccuracy, Row
from hvt_deploy.evaluation.report.markdown import render_markdown
from hvt_deploy.evaluation.scores import Latency
from hvt_deploy.evaluation.timing import Timings
from hvt_deploy.models.registry import get_spec
from hvt_deploy.runtime.variant import Variant

CLASSES, IMAGES, RIGHT = 1000, 50_000, 0.8
NAMES = ("pytorch fp32", "ort fp32")
ARTIFACT = Artifact("f", "f.onnx", {"f.onnx": "0" * 64}, "", {}, None, {}, "")


@cache
def answers_to_imagenet():
    """Of two backends that are both right on the same four fifths of ImageNet's 50 000 images."""
    one_hot = np.eye(CLASSES, dtype=np.float32)
    labels = np.arange(CLASSES)
    answers = np.where(labels < RIGHT * CLASSES, labels, labels - 1)
    return join_answers(
        [
            answered(dict.fromkeys(NAMES, one_hot[answers]), labels, start)
            for start in range(0, IMAGES, CLASSES)
        ]
    )


@cache
def rows():
    """Of these two backends."""
    variants = (Variant("pytorch", "cpu", "fp32"), Variant("ort", "cpu", "fp32"))
    return tuple(row_of(answers_to_imagenet(), v.name, v, "fdvit_b") for v in variants)


def concluded(
    images=IMAGES,
    weights="official",
    subset=None,
    stable=True,
    found=None,
    crop_pct=0.875,
    artifacts=None,
    answers=None,
):
    config = with_flags(config_of("fdvit_b"), {"validation.subset": subset})
    names = load_imagenet_1k()
    manifest = Manifest(
        slug="fdvit_b",
        model="fdvit_b",
        exported=now(),
        signature=Signature((224, 224), CLASSES),
        wnids=names.wnids,
        preprocessing=Preprocessing((224, 224), crop_pct=crop_pct),
        class_names=names.names,
        config=config,
        artifacts=artifacts or {},
        weights=WeightsRecord(weights, "0" * 64, untrained=weights == "random"),
    )
    slow = Latency(1, 5.0, 5.0, 5.0, 5.0, windows_ms=(5.0,) * 20)
    timings = Timings({NAMES[0]: (slow,), NAMES[1]: (replace(slow, stable=stable),)})
    data = DataSummary("val", images, CLASSES, "by wnid", 0, subset=subset)
    found_rows, timings = found or (rows(), timings)
    found_answers = answers or answers_to_imagenet()
    measured = Measured(found_rows, found_answers, timings, data, names.names)
    return conclude(manifest, config, measured)


def test_official_weights_on_the_whole_set_stand_beside_the_published_figures():
    results = concluded()
    paper = get_spec("fdvit_b").published
    assert results.published == PublishedAccuracy(paper.top1, paper.top5)
    difference = f"{80 - paper.top1:+.2f}"
    assert difference in render_markdown(results), (
        "measured minus published top-1 is not in the report"
    )


@pytest.mark.parametrize(
    "otherwise",
    [
        {"images": IMAGES - 1},
        {"weights": "file"},
        {"weights": "random"},
        {"subset": "imagenet-v2"},
        {"crop_pct": 1.0},
    ],
)
def test_nothing_is_set_beside_the_paper_that_is_not_comparable(otherwise):
    assert concluded(**otherwise).published is None


def test_a_latency_that_never_settled_proves_nothing_and_is_no_error():
    assert not concluded().warnings
    wild = concluded(stable=False)
    assert not wild.errors
    assert [w.partition(". ")[0] for w in wild.warnings] == [
        "The latency of ort fp32 at batch 1 proves nothing"
    ]
    timing = wild.rows[1].timing
    assert timing.speedup_fault.mark == "not proven"
    assert "never became stable" in timing.latency_fault


def test_latencies_that_prove_nothing_for_the_same_reason_are_said_once():
    unstable = (replace(windows(5), stable=False),)
    wild = concluded(found=(rows(), Timings(dict.fromkeys(NAMES[:2], unstable))))
    assert [w.partition(". ")[0] for w in wild.warnings] == [
        f"The latencies of {NAMES[0]}, {NAMES[1]} at batch 1 prove nothing"
    ]


def test_a_speedup_over_an_unstable_reference_proves_nothing():
    timings = {
        NAMES[0]: (replace(windows(5), stable=False),),
        NAMES[1]: (windows(5, seed=1),),
    }
    _, ort = add_timings(rows(), Timings(timings))
    assert ort.timing.latency_fault == ""
    assert "compared with never became stable" in ort.timing.speedup_fault.why


def test_a_speedup_of_a_gpu_over_a_cpu_is_marked():
    gpu = Variant("ort", "cuda", "fp32")
    on_gpu = replace(rows()[1], variant=gpu, backend=gpu.name)
    throttled = on_card(1, (1410, 1410), ("software power cap",))
    timings = Timings({NAMES[0]: (windows(5),), gpu.name: (throttled,)})
    results = concluded(found=((rows()[0], on_gpu), timings))
    timing = results.rows[1].timing
    assert timing.speedup.low > 4
    assert "ran on another device" in timing.speedup_fault.why
    assert "held at 1410 MHz" in timing.latency_fault
    assert [w.partition(". ")[0] for w in results.warnings] == [
        "The latency of ort fp32 at batch 1 proves nothing",
        "The speed-up of ort fp32 at batch 1 is not proven",
    ]


def test_a_speedup_is_over_the_best_form_of_pytorch_at_each_batch_size():
    forms = [Variant("pytorch", "cpu", "fp32", form) for form in ("plain", "deployed", "compiled")]
    ort = Variant("ort", "cpu", "int8", "cpu")
    found = [Row("m", one.name, one, None) for one in (*forms, ort)]
    by_row = {"plain": (20, 80), "deployed": (10, 40), "compiled": (8, 50), "cpu": (4, 20)}
    latency = {
        one.backend: tuple(
            windows(ms, batch, seed=seed)
            for seed, (ms, batch) in enumerate(zip(by_row[one.variant.form], (1, 8), strict=True))
        )
        for one in found
    }
    *_, row = add_timings(found, Timings(latency))
    assert [timing.speedup_over for timing in row.timings] == [
        "pytorch fp32 compiled",
        "pytorch fp32 deployed",
    ]
    assert [timing.speedup.estimate for timing in row.timings] == pytest.approx([2, 2], rel=0.05)
    over_reference = [timing.over_reference.estimate for timing in row.timings]
    assert over_reference == pytest.approx([5, 4], rel=0.05)
    # A form that never settled may be the best one: nothing is proven over it.
    wild = (replace(latency["pytorch fp32 compiled"][0], stable=False),)
    *_, row = add_timings(found, Timings({**latency, "pytorch fp32 compiled": wild}))
    assert row.timing.speedup_fault.mark == "not proven"
    assert row.timing.over_reference.estimate == pytest.approx(5, rel=0.05)


@pytest.mark.parametrize(("asked", "used"), [("1", 1), ("", 2), ("64", 2), ("1,2", 1), ("x", 2)])
def test_the_threads_in_the_record_are_those_that_run(monkeypatch, asked, used):
    monkeypatch.setattr(environment, "cpu_count", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert concluded().environment["threads"] == str(used)


INT8_ROWS = (
    Variant("trt", "cuda", "int8", target="sm80"),
    Variant("ort", "cpu", "int8", "cpu"),
    Variant("ort", "cpu", "int8-fp32", "engine-numerics"),
)


def promises(found_db, promised_db=39.0, compared_images=16, precision="int8", bad_share=1.0):
    """The warnings of three INT8 rows: an engine, the CPU variant, the engine's numerics. All noise
    of their logits is in this share of 500 images. `promised_db` may be one by graph.
    """
    promised = dict.fromkeys(("fp16", "int8", "int8-cpu", "int8-fp32"), promised_db)
    if isinstance(promised_db, dict):
        promised |= promised_db
    graphs = {
        key: replace(
            ARTIFACT,
            facts=GraphFacts(
                precision,
                19,
                1,
                parity=Parity(0.1, 0.1, db, same_argmax=True),
                compared_images=compared_images,
            ),
        )
        for key, db in promised.items()
    }
    variants = [Variant("ort", "cuda", "fp16")] if precision == "fp16" else INT8_ROWS
    reference = rows()[0].variant
    labels = np.arange(500)
    logits = np.eye(500, dtype=np.float32)
    noise = np.zeros_like(logits)
    noise[: int(bad_share * 500), 0] = np.sqrt(10 ** (-found_db / 10) / bad_share)
    found = answered({reference.name: logits, **{v.name: logits + noise for v in variants}}, labels)
    int8 = tuple(row_of(found, v.name, v, "fdvit_b") for v in (reference, *variants))
    return concluded(found=(int8, Timings({})), artifacts=graphs, answers=found).warnings


def test_int8_far_below_what_calibration_promised_is_a_warning():
    warnings = promises(20.0)
    assert [w.partition(" has ")[0] for w in warnings] == [v.name for v in INT8_ROWS]
    assert "20.0 dB on 500 images, 39.0 dB on 16 calibration images" in warnings[0]
    assert "quantize fdvit_b --int8 --calib DIR" in warnings[0]
    assert not promises(33.1)
    assert promises(32.9)


def test_calibration_images_are_not_blamed_for_noise_that_few_images_have():
    # Of the draws of 16 images, 85 % have none of the noisy hundredth, 0.01 % none of the half.
    assert not promises(20.0, bad_share=0.01)
    assert promises(20.0, bad_share=0.5)
    assert promises(20.0, bad_share=0.01, compared_images=1000)


def test_what_was_promised_on_noise_or_of_no_int8_is_not_held_against_calibration():
    assert not promises(20.0, compared_images=0)
    assert not promises(100.0, promised_db=float("inf"))
    assert not promises(20.0, precision="fp16")


def test_each_int8_row_is_held_to_the_promise_of_its_own_graph():
    (warning,) = promises(20.0, promised_db={"int8": 39.0, "int8-cpu": 10.0, "int8-fp32": 10.0})
    assert warning.startswith("trt int8 sm80 has ")


def test_what_speaks_against_the_calibration_images_is_in_the_report():
    facts = CalibrationFacts("k", ("Only 8 images.", "All alike."))
    results = concluded(artifacts={"calibration": replace(ARTIFACT, facts=facts)})
    assert results.provenance["calibration images"] == "Only 8 images. All alike."
    assert "Only 8 images. All alike." in render_markdown(results)
    assert "calibration images" not in concluded().provenance
