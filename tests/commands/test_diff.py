"""`diff` on records: chance is not a change, a real loss is, and exit codes say so to CI."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from command_line import run

from hvt_deploy.commands.diff import diff
from hvt_deploy.core.errors import BadInput
from hvt_deploy.evaluation.image_answers import answer_images, read_answers
from hvt_deploy.evaluation.record import DataSummary, Gate, Results, Row
from hvt_deploy.evaluation.scores import Accuracy, Fault, Fidelity, Interval, Latency, Timing
from hvt_deploy.evaluation.statistics import newcombe_interval, wilson_interval
from hvt_deploy.runtime.variant import Variant

N = 5000


def accuracy(right) -> Accuracy:
    return Accuracy(N, wilson_interval(right, N), None, None, 0)


def results(
    right=4000, speedup=(2.0, 1.98, 2.02), skipped=None, status="passed", **changes
) -> Results:
    reference, int8 = Variant("pytorch", "cpu", "fp32"), Variant("ort", "cpu", "int8")
    row = Row("m", int8.name, int8, None, skipped=skipped)
    if skipped is None:
        row = Row(
            "m",
            int8.name,
            int8,
            None,
            N,
            accuracy(right),
            Fidelity(wilson_interval(right, N), 30.0, None, None),
            timings=(Timing(Latency(1, 5.0, 5.0, 5.0, 5.0), Interval(*speedup)),),
        )
    rows = (Row("m", reference.name, reference, None, N, accuracy(4010)), row)
    gates = (Gate("max-top1-drop", "ort int8", 1.0, status, "A sentence."),)
    made = Results(
        "m",
        "m",
        "now",
        False,
        DataSummary("val", N, 10, "by name", 0),
        rows,
        gates,
        "A verdict.",
        environment={"cpu": "c"},
    )
    return replace(made, **changes)


@pytest.fixture
def files(tmp_path):
    def write(before, after):
        before.write(tmp_path / "a.json")
        after.write(tmp_path / "b.json")
        return tmp_path / "a.json", tmp_path / "b.json"

    return write


def outcomes(difference, what):
    return [
        change.outcome
        for change in difference.changes
        if change.backend == "ort int8" and change.what == what
    ]


@pytest.mark.parametrize(
    ("right", "outcome"),
    [
        (4000, "not proven"),
        (3960, "not proven"),
        (3900, "worse"),
        (4100, "better"),
        (4040, "not proven"),
    ],
)
def test_accuracy_changes_beyond_its_interval_only(files, right, outcome):
    found = diff(*files(results(), results(right=right)))
    assert outcomes(found, "top-1") == [outcome]
    assert found.regressed == (outcome == "worse")


@pytest.mark.parametrize(
    ("right", "margin", "outcome"),
    [(4000, 1.5, "not proven"), (4000, 1.6, "same"), (3960, 1.6, "not proven")],
)
def test_the_same_needs_the_whole_interval_inside_the_margin(files, right, margin, outcome):
    """Of 5000 unrelated images the interval of no change is ±1.57 points."""
    found = diff(*files(results(), results(right=right)), margin=margin)
    assert outcomes(found, "top-1") == [outcome]
    assert found.margin == margin


@pytest.mark.parametrize(
    ("speedup", "outcome"),
    [
        ((1.97, 1.95, 1.99), "same"),
        ((1.8, 1.78, 1.82), "worse"),
        ((2.3, 2.28, 2.32), "better"),
        ((1.6, 1.2, 2.0), "not proven"),
    ],
)
def test_speed_changes_beyond_its_interval_and_what_two_sessions_differ_by(files, speedup, outcome):
    assert outcomes(diff(*files(results(), results(speedup=speedup))), "speed-up") == [outcome]


def test_a_speed_that_was_not_proven_is_no_regression(files):
    """The same model under load: its median never settled."""
    before, after = results(), results(speedup=(0.9, 0.88, 0.92), status="passed")
    row = after.rows[1]
    fault = Fault("not proven", "Its median never became stable.")
    wild = replace(row, timings=(replace(row.timing, speedup_fault=fault),))
    found = diff(*files(before, replace(after, rows=(after.rows[0], wild))))
    assert outcomes(found, "speed-up") == ["not proven"]
    assert not found.regressed
    (change,) = (c for c in found.changes if c.what == "speed-up")
    assert change.note == fault.why


def test_images_of_the_same_names_that_were_replaced_are_others(files):
    def data(path, sha256):
        return {"data": replace(results().data, path=path, sha256=sha256)}

    replaced = diff(*files(results(**data("val", "a")), results(3900, **data("val", "b"))))
    assert set(outcomes(replaced, "top-1")) == {"not comparable"}
    assert not replaced.regressed
    moved = diff(*files(results(**data("val", "a")), results(3900, **data("/data/x", "a"))))
    assert outcomes(moved, "top-1") == ["worse"]


def gate(name, limit, status):
    return {"gates": (Gate(name, "ort int8", limit, status, "A sentence."),)}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (gate("max-top1-drop", 1.0, "passed"), gate("max-top1-drop", 0.1, "failed")),
        (
            gate("max-top1-drop", 1.0, "passed"),
            gate("max-top1-drop", 1.0, "failed")
            | {"data": DataSummary("test", N, 10, "by name", 0)},
        ),
        (
            gate("min-speedup", 2.0, "passed"),
            gate("min-speedup", 2.0, "failed") | {"environment": {"cpu": "another"}},
        ),
    ],
    ids=["a stricter limit", "other images", "another machine"],
)
def test_a_gate_that_fails_for_another_reason_is_no_regression(files, before, after):
    found = diff(*files(results(**before), results(**after)))
    (name,) = (g.name for g in before["gates"])
    assert outcomes(found, f"gate {name}") == ["not comparable"]
    assert not found.regressed


def test_a_backend_that_no_longer_runs_and_a_gate_that_no_longer_holds_are_regressions(files):
    gone = diff(*files(results(), results(skipped="No GPU.")))
    row = next(change for change in gone.changes if change.backend == "ort int8")
    assert (row.what, row.outcome, row.note) == ("row", "worse", "No GPU.")
    assert not diff(*files(results(skipped="No GPU.", status="skipped"), results())).regressed
    unasked = diff(*files(results(), results(gates=())))
    assert [(c.what, c.after) for c in unasked.changes if c.outcome == "worse"] == [
        ("gate max-top1-drop", "not set")
    ]
    other_images = {"data": DataSummary("test", N, 10, "by name", 0)}
    elsewhere = diff(
        *files(results(), results(skipped="No GPU.", status="skipped", **other_images))
    )
    assert {c.what for c in elsewhere.changes if c.outcome == "worse"} == {
        "row",
        "gate max-top1-drop",
    }
    broken = diff(*files(results(), results(status="failed")))
    assert [c.what for c in broken.changes if c.outcome == "worse"] == ["gate max-top1-drop"]


def test_a_gate_that_is_not_proven_any_more_is_no_proof_of_a_regression(files):
    """Other work on the machine: the timing never settled, so the speed gate proves nothing."""
    found = diff(*files(results(), results(status="not proven")))
    assert outcomes(found, "gate max-top1-drop") == ["not proven"]
    assert not found.regressed


@pytest.mark.parametrize("key", ["cpu", "gpu", "threads"])
def test_speeds_of_different_machines_are_not_compared(files, key):
    after = results(speedup=(0.9, 0.88, 0.92), environment={"cpu": "c", key: "another"})
    found = diff(*files(results(), after))
    assert outcomes(found, "speed-up") == ["not comparable"]
    assert not found.regressed
    assert any(note.startswith(f"Another {key}") for note in found.notes)


def test_what_was_not_alike_is_told_and_another_model_refused(files):
    other = replace(
        results(), data=DataSummary("test", 100, 10, "by name", 0), environment={"cpu": "d"}
    )
    assert len(diff(*files(results(), other)).notes) == 2
    assert "answers.npz" in diff(*files(results(), results())).notes[0]
    elsewhere = replace(results(right=3000), data=replace(results().data, path="other/set"))
    found = diff(*files(results(), elsewhere))
    assert outcomes(found, "top-1") == ["not comparable"]
    assert not found.regressed, "accuracies of different images are no regression"
    moved = replace(results(right=3000), data=replace(results().data, path="/elsewhere/val"))
    assert diff(*files(results(), moved)).regressed
    with pytest.raises(BadInput, match=r"of m, .* of other"):
        diff(*files(results(), results(model="other")))


def keep_answers(path, wrong, order=1):
    """Answers of 5000 images: the reference is always right, the backend not on `wrong` images."""
    labels = np.arange(N) % 10
    found = labels.copy()
    found[list(wrong)] = (labels[list(wrong)] + 1) % 10
    one_hot = np.eye(10, dtype=np.float32)
    logits = {"pytorch fp32": one_hot[labels[::order]], "ort int8": one_hot[found[::order]]}
    files = tuple(f"{i:05}.png" for i in range(N))[::order]
    answer_images(logits, labels[::order], np.arange(N), files).write(path)


def test_the_same_images_are_compared_one_by_one(files, tmp_path):
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()

    def compare(wrong_before, wrong_after):
        results(right=N - len(wrong_before)).write(tmp_path / "before/results.json")
        results(right=N - len(wrong_after)).write(tmp_path / "after/results.json")
        keep_answers(tmp_path / "before/answers.npz", wrong_before)
        keep_answers(tmp_path / "after/answers.npz", wrong_after, order=-1)
        return diff(tmp_path / "before/results.json", tmp_path / "after/results.json")

    # 1 % of the answers lost: unrelated images would not show it at a top-1 of 80 % (see right=3960
    # above).
    lost = compare(range(1000), range(1050))
    assert outcomes(lost, "top-1") == outcomes(lost, "agreement") == ["worse"]
    assert lost.notes == ()
    assert outcomes(compare(range(1050), range(1000)), "top-1") == ["better"]
    # As many lost as gained is no change; identical answers leave +-0.08 points at 5000 images.
    assert outcomes(compare(range(1000), range(20, 1020)), "top-1") == ["same"]
    same = next(
        c
        for c in compare(range(1000), range(1000)).changes
        if c.what == "top-1" and c.backend == "ort int8"
    )
    assert (same.change.low, same.change.high) == pytest.approx((-0.077, 0.077), abs=0.001)

    keep_answers(tmp_path / "after/answers.npz", range(1000))
    shorter = read_answers(tmp_path / "after/answers.npz")
    replace(shorter, files=("another.png", *shorter.files[1:])).write(
        tmp_path / "after/answers.npz"
    )
    other = diff(tmp_path / "before/results.json", tmp_path / "after/results.json")
    assert outcomes(other, "top-1") == ["not comparable"]
    (tmp_path / "after/answers.npz").write_bytes(b"PK")
    with pytest.raises(BadInput, match=r"answers\.npz"):
        diff(tmp_path / "before/results.json", tmp_path / "after/results.json")


def test_newcombes_interval_is_the_published_one():
    # Newcombe 1998, table II, case (a): 56/70 - 48/80, method 10: 0.0524 to 0.3339.
    interval = newcombe_interval(wilson_interval(48, 80), wilson_interval(56, 70))
    assert (round(interval.estimate, 2), round(interval.low, 2), round(interval.high, 2)) == (
        20.0,
        5.24,
        33.39,
    )


def test_the_verb_exits_1_on_a_regression(files, tmp_path):
    files(results(), results(right=3800))
    done = run("diff", "a.json", "b.json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "worse" in done.stdout
    record = json.loads(run("diff", "b.json", "a.json", "--json", cwd=tmp_path).stdout)
    assert {change["outcome"] for change in record["changes"]} == {"same", "better", "not proven"}
    assert record["margin"] == 0.5
    wide = run("diff", "a.json", "a.json", "--margin", "2", cwd=tmp_path).stdout
    assert "within ±2 points" in wide
    assert "not proven" not in wide
