"""Content of every report: columns, facts and sentences of a record as text, without layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from hvt_deploy.evaluation.record import Gate, GateStatus, PublishedAccuracy, Results, Row
from hvt_deploy.evaluation.report.number_format import (
    EMPTY,
    format_cosine,
    format_count,
    format_decibels,
    format_mebibytes,
    format_percent,
    format_percent_range,
    format_points,
    format_points_range,
    format_probability,
    format_three_digits,
)
from hvt_deploy.evaluation.report.speed_cells import (
    back_to_back_cell,
    clock_cell,
    latency_column,
    over_reference_cell,
    speedup_cell,
    throughput_cell,
    timed_runs_cell,
)
from hvt_deploy.evaluation.report.tables import Cell, Column, Fact, Line, Table
from hvt_deploy.evaluation.report.terms import REPORT_TERMS, define_terms
from hvt_deploy.evaluation.scores import Interval

UNTRAINED_TITLE = "UNTRAINED WEIGHTS"
UNTRAINED_SENTENCE = (
    "The weights are random. Every accuracy and agreement in this report is meaningless, "
    "and no accuracy gate can pass. Latencies are valid."
)
INTERVALS_SENTENCE = (
    "Brackets are 95 % confidence intervals. A positive drop is worse than the reference."
)

Tone = Literal["good", "bad", "warning", "neutral"]

_GATE_TONES: dict[GateStatus, Tone] = {
    "passed": "good",
    "failed": "bad",
    "not proven": "warning",
    "skipped": "warning",
}


def make_summary_columns(results: Results) -> tuple[Column, ...]:
    """The figures a reader compares first: accuracy, latency, speed-up."""
    mark = " (untrained)" if results.untrained else ""
    return (
        Column(f"top-1{mark}", "accuracy", lambda r: _percent_cell(r.accuracy and r.accuracy.top1)),
        Column(f"drop{mark}", "accuracy", _drop_cell),
        Column(
            f"agreement{mark}",
            "accuracy",
            lambda r: _percent_cell(r.fidelity and r.fidelity.agreement),
        ),
        latency_column(results),
        Column("back to back", "speed", back_to_back_cell),
        Column("img/s", "speed", throughput_cell),
        Column("speed-up", "speed", lambda r: speedup_cell(r.timing) if r.timing else None),
        Column("over reference", "speed", over_reference_cell),
    )


def make_accuracy_columns(results: Results) -> tuple[Column, ...]:
    """Further accuracy and logit figures of a row."""
    published = results.published or PublishedAccuracy(None, None)
    mark = " (untrained)" if results.untrained else ""
    return (
        Column("images", "detail", lambda r: Cell(f"{r.images:,}") if r.images else None),
        Column(f"top-5{mark}", "detail", lambda r: _percent_cell(r.accuracy and r.accuracy.top5)),
        Column(f"McNemar p{mark}", "detail", _mcnemar_cell),
        Column(
            "published top-1",
            "detail",
            lambda r: _published_cell(published.top1, r.accuracy and r.accuracy.top1),
        ),
        Column(
            "published top-5",
            "detail",
            lambda r: _published_cell(published.top5, r.accuracy and r.accuracy.top5),
        ),
        Column(
            "SQNR",
            "detail",
            lambda r: _number_cell(r.fidelity and r.fidelity.sqnr_db, format_decibels),
        ),
        Column(
            "logit cosine",
            "detail",
            lambda r: _number_cell(r.fidelity and r.fidelity.cosine, format_cosine),
        ),
        Column(
            "max logit error",
            "detail",
            lambda r: _number_cell(r.fidelity and r.fidelity.max_abs, format_three_digits),
        ),
    )


def make_run_columns(_: Results) -> tuple[Column, ...]:
    """Device, number of timed runs, memory and artifact of a row."""
    return (
        Column("device", "detail", lambda r: Cell(r.variant.device), is_text=True),
        Column("timed runs", "detail", timed_runs_cell),
        Column("clock", "detail", clock_cell, is_text=True),
        Column("memory", "detail", lambda r: _number_cell(r.memory_mib, format_mebibytes)),
        Column(
            "artifact", "detail", lambda r: Cell(r.artifact) if r.artifact else None, is_text=True
        ),
    )


def fill_table(results: Results, columns: tuple[Column, ...]) -> Table:
    """Figures of every backend that ran; columns without any figure are left out."""
    ran = [r for r in results.rows if r.skipped is None]
    cells = {c.title: [c.cell(r) for r in ran] for c in columns}
    kept = tuple(c for c in columns if any(cell is not None for cell in cells[c.title]))
    lines = tuple(
        Line(row, row is results.rows[0], tuple(cells[c.title][i] or Cell(EMPTY) for c in kept))
        for i, row in enumerate(ran)
    )
    return Table(kept, lines)


def list_skipped(results: Results) -> tuple[Fact, ...]:
    """Each backend, and each step of a sweep, that was not run, with the reason."""
    rows = (
        Fact(f"{r.backend} ({format_precision(r)}, {r.variant.device})", r.skipped)
        for r in results.rows
        if r.skipped
    )
    return (*rows, *(Fact(one.what, one.why) for one in results.skipped))


def list_notes(results: Results) -> tuple[Fact, ...]:
    """Notes on backends that ran, and the command that measures a GPU's the same way."""
    ran = [r for r in results.rows if r.skipped is None]
    return tuple(Fact(r.backend, note) for r in ran if (note := " ".join(_list_notes(r))))


def describe_data(results: Results) -> tuple[Fact, ...]:
    """The images of the validation, without the names of unreadable files."""
    data = results.data
    sample = (
        "the whole folder" if data.limit is None else f"a class-stratified sample of {data.limit:,}"
    )
    return (
        Fact("folder", data.path),
        Fact("images", f"{format_count(data.images, 'image')} ({sample}, seed {data.seed})"),
        Fact("classes", f"{data.classes:,}"),
        Fact("class mapping", data.class_mapping),
        *((Fact("subset", f"{data.subset}, logits of its classes only"),) if data.subset else ()),
        Fact(
            "unreadable files", f"{len(data.unreadable):,}{', skipped' if data.unreadable else ''}"
        ),
    )


def describe_run(results: Results) -> tuple[Fact, ...]:
    """Model, weights and time of the validation."""
    return (
        Fact("model", results.model),
        Fact("workspace name", results.slug),
        Fact("trained", "no, random weights" if results.untrained else "yes"),
        Fact("created", results.created),
        Fact("record", f"results.json, schema {results.schema_version}"),
    )


def list_terms() -> tuple[Fact, ...]:
    """Definitions of the terms in the report."""
    return list_entries(define_terms(REPORT_TERMS))


def list_entries(mapping: Mapping[str, str]) -> tuple[Fact, ...]:
    """The entries of `environment` or `provenance`, in their order."""
    return tuple(Fact(label, value or EMPTY) for label, value in mapping.items())


def format_gate(gate: Gate) -> str:
    """The gate as the user typed it: `--max-top1-drop 0.5`."""
    return f"--{gate.name} {gate.limit:g}"


def choose_gate_tone(gate: Gate) -> Tone:
    """The colour of a gate's status."""
    return _GATE_TONES[gate.status]


def choose_verdict_tone(results: Results) -> Tone:
    """The colour of the worst gate; never good for untrained weights."""
    tones: set[Tone] = {choose_gate_tone(g) for g in results.gates}
    if results.untrained:
        tones.add("warning")
    if "bad" in tones:
        return "bad"
    if "warning" in tones:
        return "warning"
    return "good" if tones else "neutral"


def _list_notes(row: Row) -> Iterator[str]:
    if row.note:
        yield row.note
    difference = row.pixel_difference
    if difference is not None:
        yield (
            f"Its pixels differ from Pillow's by {format_three_digits(difference.mean)} of 255 on "
            f"average, {format_three_digits(difference.largest)} at most."
        )
    gpu = row.timing.latency.gpu if row.timing else None
    if gpu is not None and gpu.launches.note:
        yield gpu.launches.note
    if gpu is not None and gpu.launches.trtexec:
        yield f"GPU compute time of the same, launched back to back: {gpu.launches.trtexec}"


def format_precision(row: Row) -> str:
    """The precision of a row; `any` where it has none yet."""
    return row.variant.precision or "any"


def _drop_cell(row: Row) -> Cell | None:
    return _points_cell(row.accuracy.drop.points) if row.accuracy and row.accuracy.drop else None


def _mcnemar_cell(row: Row) -> Cell | None:
    drop = row.accuracy.drop if row.accuracy else None
    return Cell(format_probability(drop.mcnemar_p)) if drop else None


def _percent_cell(interval: Interval | None) -> Cell | None:
    return (
        Cell(format_percent(interval.estimate), format_percent_range(interval))
        if interval
        else None
    )


def _points_cell(interval: Interval | None) -> Cell | None:
    return (
        Cell(format_points(interval.estimate), format_points_range(interval)) if interval else None
    )


def _published_cell(published: float | None, measured: Interval | None) -> Cell | None:
    if published is None or measured is None:
        return None
    difference = format_points(measured.estimate - published)
    return Cell(f"{published} %", f"(measured {difference})")


def _number_cell(value: float | None, write: Callable[[float], str]) -> Cell | None:
    return None if value is None else Cell(write(value))
