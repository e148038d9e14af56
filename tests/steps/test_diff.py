"""`diff` on records: chance is not a change, a real loss is, and exit codes tell CI."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from test_pipeline import run

from hvt_deploy.errors import BadInput
from hvt_deploy.measure.statistics import newcombe_interval, wilson_interval
from hvt_deploy.results import DataSummary, Gate, Interval, Results, Row
from hvt_deploy.steps.diff import diff

N = 5000


def results(right=4000, speedup=(2.0, 1.98, 2.02), skipped=None, status="passed", **changes) -> Results:
    rows = (
        Row("m", "pytorch fp32", "cpu", "fp32", None, N, wilson_interval(4010, N)),
        Row("m", "ort int8", "cpu", "int8", None, N, wilson_interval(right, N), speedup=Interval(*speedup))
        if skipped is None
        else Row("m", "ort int8", "cpu", "int8", None, skipped=skipped),
    )
    gates = (Gate("max-top1-drop", "ort int8", 1.0, status, "A sentence."),)
    made = Results("m", "m", "now", False, DataSummary("val", N, 10, "by name", 0), rows, gates, "A verdict.",
                   environment={"cpu": "c"})  # fmt: skip
    return replace(made, **changes)


@pytest.fixture
def files(tmp_path):
    def write(before, after):
        before.write(tmp_path / "a.json")
        after.write(tmp_path / "b.json")
        return tmp_path / "a.json", tmp_path / "b.json"

    return write


def outcomes(difference, what):
    return [change.outcome for change in difference.changes if change.backend == "ort int8" and change.what == what]


@pytest.mark.parametrize(
    ("right", "outcome"), [(4000, "same"), (3960, "same"), (3900, "worse"), (4100, "better"), (4040, "same")]
)
def test_accuracy_changes_beyond_its_interval_only(files, right, outcome):
    found = diff(*files(results(), results(right=right)))
    assert outcomes(found, "top-1") == [outcome]
    assert found.regressed == (outcome == "worse")


@pytest.mark.parametrize(
    ("speedup", "outcome"),
    [((1.97, 1.95, 1.99), "same"), ((1.8, 1.78, 1.82), "worse"), ((2.3, 2.28, 2.32), "better"),
     ((1.6, 1.2, 2.0), "same")],
)  # fmt: skip
def test_speed_changes_beyond_its_interval_and_what_two_sessions_differ_by(files, speedup, outcome):
    assert outcomes(diff(*files(results(), results(speedup=speedup))), "speed-up") == [outcome]


def test_a_backend_that_no_longer_runs_and_a_gate_that_no_longer_holds_are_regressions(files):
    gone = diff(*files(results(), results(skipped="No GPU.")))
    row = next(change for change in gone.changes if change.backend == "ort int8")
    assert (row.what, row.outcome, row.note) == ("row", "worse", "No GPU.")
    assert not diff(*files(results(skipped="No GPU.", status="skipped"), results())).regressed
    unasked = diff(*files(results(), results(gates=())))
    assert [(c.what, c.after) for c in unasked.changes if c.outcome == "worse"] == [("gate max-top1-drop", "not set")]
    broken = diff(*files(results(), results(status="not proven")))
    assert [c.what for c in broken.changes if c.outcome == "worse"] == ["gate max-top1-drop"]


def test_what_was_not_alike_is_told_and_another_model_refused(files):
    other = replace(results(), data=DataSummary("test", 100, 10, "by name", 0), environment={"cpu": "d"})
    assert len(diff(*files(results(), other)).notes) == 2
    elsewhere = replace(results(right=3000), data=replace(results().data, path="other/set"))
    found = diff(*files(results(), elsewhere))
    assert outcomes(found, "top-1") == ["not comparable"]
    assert not found.regressed, "accuracies of different images are no regression"
    moved = replace(results(right=3000), data=replace(results().data, path="/elsewhere/val"))
    assert diff(*files(results(), moved)).regressed
    with pytest.raises(BadInput, match=r"of m, .* of other"):
        diff(*files(results(), results(model="other")))


def test_newcombes_interval_is_the_published_one():
    # Newcombe 1998, table II, case (a): 56/70 - 48/80, method 10: 0.0524 to 0.3339.
    interval = newcombe_interval(wilson_interval(48, 80), wilson_interval(56, 70))
    assert (round(interval.estimate, 2), round(interval.low, 2), round(interval.high, 2)) == (20.0, 5.24, 33.39)


def test_the_verb_exits_1_on_a_regression(files, tmp_path):
    files(results(), results(right=3800))
    done = run("diff", "a.json", "b.json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "worse" in done.stdout
    record = json.loads(run("diff", "b.json", "a.json", "--json", cwd=tmp_path).stdout)
    assert {change["outcome"] for change in record["changes"]} == {"same", "better"}
