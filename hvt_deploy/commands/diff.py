"""`diff`: what changed between two validations, beyond what chance explains."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.manifest import RESULTS
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.evaluation.claims import compare_speedups, judge_drop, judge_ratio
from hvt_deploy.evaluation.comparability import are_same_images, list_other_machine
from hvt_deploy.evaluation.image_answers import ANSWERS_FILE, ImageAnswers, read_answers
from hvt_deploy.evaluation.record import (
    DropOutcome,
    Gate,
    Results,
    Row,
    SpeedOutcome,
    read_results,
)
from hvt_deploy.evaluation.scores import Interval, Timing
from hvt_deploy.evaluation.statistics import newcombe_interval, tango_interval

# Points, as `validate` has it.
DEFAULT_MARGIN = 0.5
Outcome = Literal["same", "better", "worse", "not proven", "new", "not comparable"]


@dataclass(frozen=True)
class Change:
    """One number of one backend in both records."""

    backend: str
    """Display name of the backend, the same in both records."""
    what: str
    """Name of the number: "top-1", "speed-up", "gate max-top1-drop"."""
    before: str
    """The number in the first record, as text with its unit."""
    after: str
    """The number in the second record, as text with its unit."""
    outcome: Outcome
    """Whether the change is proven, and in which direction."""
    change: Interval | None = None
    """After minus before in points; for speed-ups after over before. None if not computed."""
    note: str = ""
    """Why there is no change to judge; empty otherwise."""


@dataclass(frozen=True)
class Difference:
    """The comparison of two validations."""

    changes: tuple[Change, ...]
    """One for each number that both records have."""
    margin: float
    """Points within which an accuracy counts as the same."""
    notes: tuple[str, ...]
    """How the two validations differed (images, machine, versions)."""

    @property
    def regressed(self) -> bool:
        """Whether anything became worse."""
        return any(change.outcome == "worse" for change in self.changes)


def diff(before: Path, after: Path, margin: float = DEFAULT_MARGIN) -> Difference:
    """Compare two `results.json`. Raises BadInput for a file that is none, or of another model.

    An accuracy is the same where the whole interval of its change is within `margin` points.

    Where both have the answers to every image next to them, of the same images, top-1 and agreement
    are compared image by image (Tango's interval); otherwise as of unrelated images (Newcombe's),
    which sees less.
    """
    if not 0 <= margin < math.inf:
        raise BadInput(f"The margin is {margin}.", "Give points of accuracy, for example 0.5.")
    a, b = read_results(before), read_results(after)
    if a.model != b.model:
        raise BadInput(
            f"{before} is of {a.model:.200}, {after} of {b.model:.200}.",
            "Compare two validations of one model.",
        )
    for file, results in ((before, a), (after, b)):
        if not results.rows:
            raise BadInput(f"{file} has no rows.", "Compare two validations of one model.")
    kept = _Kept.next_to(before, after, (a.rows[0].backend, b.rows[0].backend))
    same_images = are_same_images(a.data, b.data)
    if kept is not None and not (a.data.sha256 and b.data.sha256):
        same_images = kept.same_images
    judging = _Judging(margin, same_images, same_machine=not list(list_other_machine(a, b)))
    rows_a, rows_b = ({row.backend: row for row in results.rows} for results in (a, b))
    changes: list[Change] = []
    for name in dict.fromkeys((*rows_a, *rows_b)):
        changes += _compare_rows(name, rows_a.get(name), rows_b.get(name), kept, judging)
    return Difference(
        (*changes, *_compare_gates(a, b, judging)),
        margin,
        tuple(_unlike(a, b, kept, same_images=same_images)),
    )


def compare_last_two(folder: ModelFolder, margin: float = DEFAULT_MARGIN) -> Difference:
    """Compare the last two validations of a model, as `diff` does.

    Raises BadInput if fewer were kept.
    """
    with folder.reading() as manifest:
        before, after = (manifest.artifacts.get(key) for key in (f"{RESULTS}-1", RESULTS))
        if before is None or after is None:
            raise BadInput(
                f"There is no earlier validation of {folder.slug} to compare with.",
                f"Validate once more (hvt-deploy validate {folder.slug} --data DIR), or name two "
                "results.json.",
            )
        return diff(folder.file(before), folder.file(after), margin)


@dataclass(frozen=True)
class _Judging:
    """What holds for every row."""

    margin: float
    """Points within which an accuracy counts as the same."""
    same_images: bool
    """Whether both validations are of the same images."""
    same_machine: bool
    """Whether both ran on the same processors with the same number of threads."""

    def is_comparable(self, gate: Gate) -> bool:
        """Whether a gate was judged on the same images, or for speed on the same machine."""
        return self.same_images if gate.name == "max-top1-drop" else self.same_machine


@dataclass(frozen=True)
class _Kept:
    """The predictions of both validations for the same images."""

    before: ImageAnswers
    """Predictions of the first validation."""
    after: ImageAnswers
    """Predictions of the second validation, images in the same order."""
    references: tuple[str, str]
    """Names of the reference backends, first and second validation."""

    @staticmethod
    def next_to(before: Path, after: Path, references: tuple[str, str]) -> _Kept | None:
        """The answers next to both records; None where one has none."""
        paths = [path.parent / ANSWERS_FILE for path in (before, after)]
        if not all(path.is_file() for path in paths):
            return None
        a, b = (read_answers(path).sorted_by_file() for path in paths)
        return _Kept(a, b, references)

    @property
    def same_images(self) -> bool:
        """Whether both saw images of the same names and labels."""
        return self.before.files == self.after.files and np.array_equal(
            self.before.labels, self.after.labels
        )

    def change(self, name: str, what: str) -> Interval | None:
        """The paired change of a backend's top-1 or agreement; None for anything else, or if it did
        not run in both.
        """
        if (
            what == "top-5"
            or not self.same_images
            or not all(name in one.answers for one in (self.before, self.after))
        ):
            return None
        was, now = (
            one.predicted(name) == (one.labels if what == "top-1" else one.predicted(reference))
            for one, reference in zip((self.before, self.after), self.references, strict=True)
        )
        return tango_interval(int((now & ~was).sum()), int((was & ~now).sum()), len(was))


def _compare_rows(
    name: str, before: Row | None, after: Row | None, kept: _Kept | None, judging: _Judging
) -> Iterator[Change]:
    ran_before, ran_after = (row is not None and row.skipped is None for row in (before, after))
    if not (ran_before or ran_after):
        return
    if before is None or after is None or not (ran_before and ran_after):
        why = (after.skipped or "") if after is not None and ran_before else ""
        words = {True: "ran", False: "did not run"}
        outcome: Outcome = "worse" if ran_before else "new"
        yield Change(name, "row", words[ran_before], words[ran_after], outcome, note=why)
        return
    shares_after = _shares(after)
    for measure, share in _shares(before).items():
        if measure in shares_after:
            paired = kept.change(name, measure) if kept is not None else None
            yield _accuracy_change(name, measure, share, shares_after[measure], paired, judging)
    if before.timing is not None and after.timing is not None:
        yield from _speed_change(name, before.timing, after.timing, judging)


def _shares(row: Row) -> dict[str, Interval]:
    """The percentages of a row that are compared."""
    accuracy, fidelity = row.accuracy, row.fidelity
    shares = {
        "top-1": accuracy and accuracy.top1,
        "top-5": accuracy and accuracy.top5,
        "agreement": fidelity and fidelity.agreement,
    }
    return {name: share for name, share in shares.items() if share is not None}


def _accuracy_change(
    name: str,
    what: str,
    before: Interval,
    after: Interval,
    paired: Interval | None,
    judging: _Judging,
) -> Change:
    change = paired or newcombe_interval(before, after)
    drop = Interval(-change.estimate, -change.high, -change.low)
    outcome: Outcome = "not comparable"
    if judging.same_images:
        outcome = _ACCURACY_OUTCOMES[judge_drop(drop, judging.margin)]
    return Change(
        name, what, f"{before.estimate:.2f} %", f"{after.estimate:.2f} %", outcome, change
    )


_ACCURACY_OUTCOMES: dict[DropOutcome, Outcome] = {
    "equal": "same",
    "better": "better",
    "worse": "worse",
    "not proven": "not proven",
}
_SPEED_OUTCOMES: dict[SpeedOutcome, Outcome] = {
    "faster": "better",
    "slower": "worse",
    "no difference": "same",
    "not proven": "not proven",
}


def _speed_change(name: str, before: Timing, after: Timing, judging: _Judging) -> Iterator[Change]:
    was, now = before.speedup, after.speedup
    change, why_not = compare_speedups(before, after)
    if was is None or now is None or change is None:
        return
    shown = f"{was.estimate:.2f}x", f"{now.estimate:.2f}x"
    outcome = "not proven" if why_not else _SPEED_OUTCOMES[judge_ratio(change, None)]
    if not judging.same_machine:
        outcome = "not comparable"
    yield Change(name, "speed-up", *shown, outcome, change, why_not)


_GATE_OUTCOMES: dict[str, Outcome] = {"passed": "same", "not proven": "not proven"}


def _compare_gates(before: Results, after: Results, judging: _Judging) -> Iterator[Change]:
    """What became of the gates that held: one that failed, was skipped or not asked for any more is
    worse, unless its limit, images (of accuracy) or machine (of speed) are others.
    """
    now = {(gate.name, gate.backend): gate for gate in after.gates}
    for held in (gate for gate in before.gates if gate.status == "passed"):
        name, gate = f"gate {held.name}", now.get((held.name, held.backend))
        status = gate.status if gate else "not set"
        outcome = _GATE_OUTCOMES.get(status, "worse")
        note = gate.sentence if gate else "The limit was not asked for any more."
        if gate and gate.limit != held.limit:
            outcome, note = "not comparable", f"The limit was {held.limit:g}, then {gate.limit:g}."
        elif gate and status != "skipped" and not judging.is_comparable(gate):
            outcome = "not comparable"
        yield Change(held.backend, name, "passed", status, outcome, note=note)


def _unlike(
    before: Results, after: Results, kept: _Kept | None, *, same_images: bool
) -> Iterator[str]:
    a, b = before.data, after.data
    if not same_images:
        yield f"Other images: {a.images} of {a.path}, then {b.images} of {b.path}."
    elif kept is None:
        yield (
            f"Without {ANSWERS_FILE} next to both records, accuracies are compared as if of "
            "unrelated images."
        )
    yield from list_other_machine(before, after)
    if before.untrained or after.untrained:
        yield "Random weights: accuracies mean nothing."
