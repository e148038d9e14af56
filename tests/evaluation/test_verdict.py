"""Gates pass only when the end of an interval proves it, and say how many images would."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import INT8, gates, judged, on_card, on_gpu, skipped, timed, verdict, windows

from hvt_deploy.core.run_config import ValidationConfig
from hvt_deploy.evaluation.record import Row
from hvt_deploy.evaluation.scores import Fault, Interval, Latency, Timing
from hvt_deploy.evaluation.verdict import compare_precisions, judge, write_verdict
from hvt_deploy.graph.analysis.engine_cost import EngineCost, KernelCost, ProfileCost


def gate(images, flipped, limit, **options):
    reference, candidate = judged(images, flipped)
    (found,) = judge(
        reference,
        [candidate],
        ValidationConfig(max_top1_drop=limit),
        options.get("untrained", False),
    )
    return found


def test_a_drop_that_is_proven_small_passes():
    assert gate(5000, 5, 0.5).status == "passed"


def test_a_drop_that_is_proven_large_fails():
    assert gate(5000, 100, 0.5).status == "failed"


def test_too_few_images_prove_nothing_and_the_number_needed_does():
    found = gate(200, 0, 0.5)
    assert found.status == "not proven"
    assert found.sentence.endswith("; 770 to 4,500 images needed.")
    assert gate(770, 0, 0.5).status == "passed"
    assert gate(760, 0, 0.5).status == "not proven"


def test_an_estimate_beyond_the_limit_is_no_proof_of_failure():
    found = gate(200, 2, 0.5)
    assert found.status == "not proven"
    assert "estimate itself" in found.sentence


def test_untrained_weights_never_pass():
    assert gate(5000, 0, 5.0, untrained=True).status == "not proven"


def test_a_reference_at_chance_never_passes():
    reference, candidate = judged(5000, 0, right=0.1)
    (found,) = judge(reference, [candidate], ValidationConfig(max_top1_drop=5.0), untrained=False)
    assert found.status == "not proven"
    assert "chance" in found.sentence
    assert "No verdict" in write_verdict(reference, [candidate], 0.5, untrained=False)


def test_a_reference_whose_interval_holds_chance_never_passes():
    reference, candidate = judged(100, 0, right=0.12)
    assert reference.accuracy.top1.estimate > reference.accuracy.chance
    (found,) = judge(reference, [candidate], ValidationConfig(max_top1_drop=5.0), untrained=False)
    assert found.status == "not proven"


@pytest.mark.parametrize(
    ("low", "high", "status"),
    [(2.1, 2.4, "passed"), (1.1, 1.4, "failed"), (1.9, 2.2, "not proven")],
)
def test_speed_is_judged_by_the_end_of_its_interval(low, high, status):
    reference, candidate = judged(100, 0)
    timing = Timing(Latency(1, 1, 1, 1, 1), Interval((low + high) / 2, low, high))
    row = replace(candidate, timings=(timing,))
    (found,) = judge(reference, [row], ValidationConfig(min_speedup=2.0), untrained=False)
    assert found.status == status


def test_latency_is_judged_by_the_interval_of_its_median():
    reference, candidate = judged(100, 0)
    medians = tuple(np.linspace(4.8, 5.2, 20))
    timing = Timing(Latency(1, 4, 5, 6, 7, windows_ms=medians))
    row = replace(candidate, timings=(timing,))
    for limit, status in ((6.0, "passed"), (4.0, "failed"), (5.0, "not proven")):
        (found,) = judge(reference, [row], ValidationConfig(max_latency_ms=limit), untrained=False)
        assert found.status == status


def test_a_named_backend_that_did_not_run_is_skipped_not_passed():
    reference, candidate = judged(5000, 0)
    found = gates(reference, [candidate, skipped(named=True)], max_top1_drop=1.0)
    assert {g.backend: g.status for g in found} == {"ort int8": "passed", "trt int8": "skipped"}


@pytest.mark.parametrize("limit", ["max_top1_drop", "min_speedup", "max_latency_ms"])
def test_a_gate_that_applies_to_no_backend_is_skipped_not_dropped(limit):
    reference, _ = judged(100, 0)
    (found,) = gates(reference, [], **{limit: 5.0})
    assert (found.name, found.limit) == (limit.replace("_", "-"), 5.0)
    assert (found.backend, found.status) == ("none", "skipped")
    assert "No backend was measured" in found.sentence
    (found,) = gates(reference, [skipped()], **{limit: 5.0})
    assert (found.backend, found.status, found.sentence) == ("trt int8", "skipped", "no GPU")


@pytest.mark.parametrize("limit", ["min_speedup", "max_latency_ms"])
def test_a_speed_gate_is_skipped_where_only_accuracy_was_measured(limit):
    reference, candidate = judged(5000, 0)
    found = gates(reference, [candidate], max_top1_drop=1.0, **{limit: 5.0})
    assert [g.status for g in found] == ["passed", "skipped"]
    assert (found[1].name, found[1].backend) == (limit.replace("_", "-"), "none")


def test_the_verdict_is_not_proven_where_too_few_images_were_seen():
    assert "images needed" in verdict(100, lost=0)


@pytest.mark.parametrize("lost", [32, 60, 100])
def test_any_drop_that_is_proven_and_not_within_the_margin_is_called_worse(lost):
    """With 32 of 5000 images lost the interval begins at 0.45 points, with 60 at 0.93."""
    said = verdict(5000, lost)
    assert said.startswith("ort int8: worse than pytorch fp32 by ")
    lowest, highest = (float(word) for word in said.split(" by ")[1].split()[0:3:2])
    assert 0 < lowest < lost / 50 < highest
    assert "of top-1 on 5000 images." in said


def test_a_drop_that_is_not_proven_is_not_called_worse():
    assert "worse" not in verdict(5000, lost=60, gained=45)
    assert "not proven equal" in verdict(5000, lost=60, gained=45)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (2, 0), (12, 0), (0, 12), (5, 5)])
def test_equal_is_said_where_the_whole_interval_is_within_the_margin(lost, gained):
    expected = "equal to pytorch fp32 within ±0.5 points of top-1 on 5000 images."
    assert verdict(5000, lost, gained) == f"ort int8: {expected}"


def test_equal_has_a_lower_bound_too():
    assert "better than pytorch fp32 by" in verdict(5000, lost=0, gained=100)
    # The interval goes from -0.99 to 0.03: no drop above the margin, but maybe a gain.
    said = verdict(2000, lost=10, gained=20)
    assert said.startswith("ort int8: not proven equal to pytorch fp32 within ±0.5 points")
    assert verdict(2000, lost=10, gained=20, margin=1.5).startswith("ort int8: equal to ")


@pytest.mark.parametrize(
    ("int8_ms", "outcome", "is_faster"),
    [
        (3.0, "faster", True),
        (5.0, "no difference", False),
        (4.95, "no difference", False),
        (6.0, "slower", False),
    ],
)
def test_int8_that_is_not_faster_than_fp16_is_said_to_be_that(int8_ms, outcome, is_faster):
    rows = [
        timed(on_gpu("fp32", runtime="pytorch"), 20, seed=1),
        timed(on_gpu("fp16", "sm90"), 5.0, seed=2),
        timed(on_gpu("int8", "sm90"), int8_ms, seed=3),
    ]
    (found,) = compare_precisions(rows)
    assert (found.backend, found.than, found.outcome) == ("trt int8 sm90", "trt fp16 sm90", outcome)
    assert found.ratio.low < 5.0 / int8_ms < found.ratio.high or outcome != "no difference"
    said = "INT8 is at most 4 % faster" if outcome == "no difference" else "INT8 is not faster"
    assert (f"{said} than FP16." not in found.sentence) == is_faster
    assert f"{found.ratio.low:.2f} to {found.ratio.high:.2f}" in found.sentence


def test_two_identical_engines_are_not_called_different_however_often_it_is_asked():
    outcomes = {
        compare_precisions(
            [
                timed(on_gpu("fp16"), 5, seed=seed),
                timed(on_gpu("int8"), 5, seed=1000 + seed),
            ]
        )[0].outcome
        for seed in range(40)
    }
    assert outcomes == {"no difference"}


def test_an_interval_that_holds_faster_and_slower_proves_nothing():
    rows = [
        timed(on_gpu("fp16"), 5, seed=5, spread=0.5),
        timed(on_gpu("int8"), 5, seed=6, spread=0.5),
    ]
    assert compare_precisions(rows)[0].outcome == "not proven"


def test_int8_is_compared_within_its_runtime_and_batch_size():
    other = timed(on_gpu("fp16", runtime="ort"), 1.0)
    fp16 = timed(on_gpu("fp16", "rtx"), 5.0, seed=1)
    fp16 = replace(fp16, timings=(*fp16.timings, Timing(windows(30, batch=8))))
    int8 = timed(on_gpu("int8", "rtx"), 3.0, seed=2)
    int8 = replace(int8, timings=(*int8.timings, Timing(windows(20, batch=8, seed=3))))
    found = compare_precisions([other, timed(on_gpu("fp16", "trt10"), 9.0), fp16, int8])
    assert [(c.than, c.batch) for c in found] == [("trt fp16 rtx", 1), ("trt fp16 rtx", 8)]
    assert found[1].ratio.estimate == pytest.approx(1.5, rel=0.02)


def test_on_a_cpu_int8_is_compared_with_fp32_since_fp16_is_only_emulated():
    rows = [
        timed(replace(INT8, precision="fp32"), 5),
        timed(replace(INT8, form="cpu"), 3, seed=1),
    ]
    fp16 = replace(INT8, precision="fp16")
    untimed = Row("m", fp16.name, fp16, None)
    assert [c.than for c in compare_precisions([untimed, *rows])] == ["ort fp32"]


def test_no_speed_gate_passes_where_the_claim_has_a_fault():
    reference, _ = judged(100, 0)
    row = timed(on_gpu("int8"), 3.0, speedup=(4.0, 3.9, 4.1), over="pytorch fp16")
    limits = ValidationConfig(min_speedup=2.0, max_latency_ms=10.0)
    passed = judge(reference, [row], limits, untrained=False)
    assert {g.status for g in passed} == {"passed"}
    assert "as fast as pytorch fp16" in passed[0].sentence
    (timing,) = row.timings
    for mark in ("not proven", "at the power limit"):
        faulty = replace(timing, speedup_fault=Fault(mark, "The reason."), latency_fault="Heat.")
        found = judge(reference, [replace(row, timings=(faulty,))], limits, untrained=False)
        assert {g.status for g in found} == {"not proven"}
        assert [g.sentence for g in found] == [f"{mark.capitalize()}: The reason.", "Heat."]


def test_int8_is_not_called_faster_where_a_timing_never_settled():
    rows = [timed(on_gpu("fp16"), 5.0, seed=2), timed(on_gpu("int8"), 3.0, seed=3)]
    (timing,) = rows[0].timings
    wild = replace(timing, latency=replace(timing.latency, stable=False))
    (found,) = compare_precisions([replace(rows[0], timings=(wild,)), rows[1]])
    assert found.outcome == "not proven"
    assert "never became stable" in found.sentence
    assert "not faster" not in found.sentence


def test_a_comparison_at_other_clocks_says_so():
    fp16, int8 = (
        replace(timed(on_gpu(bits), 1.0), timings=(Timing(on_card(ms, (mhz, mhz))),))
        for bits, ms, mhz in (("fp16", 5.0, 1410), ("int8", 3.0, 1300))
    )
    (found,) = compare_precisions([fp16, int8])
    assert found.outcome == "faster"
    assert "At the power limit: The GPU ran at 1410 and 1300 MHz" in found.sentence


def test_the_time_of_an_engine_is_next_to_what_its_bytes_predict():
    def cost(mebibytes):
        return EngineCost(8, KernelCost(5, read={"fp16": mebibytes << 20}), ())

    costs = (ProfileCost(8, cost(40), cost(50)),)
    fp16, int8 = timed(on_gpu("fp16"), 5.0, batch=8), timed(on_gpu("int8"), 4.5, batch=8, seed=1)
    (found,) = compare_precisions([fp16, replace(int8, costs=costs)])
    assert found.predicted == 0.8
    assert "It takes 0.9" in found.sentence
    assert found.sentence.endswith("by the bytes that its kernels move 0.80 were predicted.")
    of_ort = timed(on_gpu("fp16", runtime="ort"), 5.0, batch=8)
    for rows in ([fp16, int8], [of_ort, timed(on_gpu("int8", runtime="ort"), 4.0, batch=8)]):
        assert compare_precisions(rows)[0].predicted is None
    other = replace(timed(on_gpu("int8"), 4.5), costs=costs)  # at batch 1
    assert compare_precisions([timed(on_gpu("fp16"), 5.0), other])[0].predicted is None
