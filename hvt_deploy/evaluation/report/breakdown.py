"""Where a backend goes wrong, in words: classes, confusions, curves, flipped images, batch sizes,
the GPU's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvt_deploy.evaluation.record import (
    Answer,
    ClassCounts,
    Confusion,
    Curve,
    Flip,
    GpuState,
    Results,
    Row,
    Timing,
)
from hvt_deploy.evaluation.report.figures import (
    EMPTY,
    milliseconds,
    percent,
    points,
    ratio,
    ratio_range,
    three_digits,
)

# Up to here every class is shown, and the confusion matrix whole.
MOST_CLASSES_SHOWN = 50
WORST_CLASSES = 25
TOP_CONFUSIONS = 20


@dataclass(frozen=True)
class Grid:
    """A plain table. The first `names` columns are text, the others numbers."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1
    note: str = ""


@dataclass(frozen=True)
class Matrix:
    """The confusion matrix of a backend: images by true class and answer. `shares` are those of the
    class's images.
    """

    title: str
    names: tuple[str, ...]
    images: tuple[tuple[int, ...], ...]
    shares: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class FlipGroup:
    """The flipped images of one backend that are kept, and how many there are."""

    backend: str
    title: str
    flips: tuple[tuple[Flip, str], ...]


def class_grids(results: Results) -> tuple[Grid, ...]:
    """Precision, recall and F1 of each class for every backend; with many classes the worst."""
    if results.untrained:
        return ()
    return tuple(
        _class_grid(results, row, row.classes)
        for row in results.rows
        if row.classes and results.class_names
    )


def _class_grid(results: Results, row: Row, counts: ClassCounts) -> Grid:
    is_reference = row is results.rows[0]
    known = [k for k, images in enumerate(counts.images) if images]

    def goodness(k: int) -> tuple[int, float, int]:
        return counts.gained[k] - counts.lost[k], counts.correct[k] / counts.images[k], k

    chosen = sorted(known, key=goodness)
    if len(known) > MOST_CLASSES_SHOWN:
        chosen = chosen[:WORST_CLASSES]
    which = (
        "every class"
        if len(chosen) == len(known)
        else f"the {len(chosen)} worst of {len(known):,} classes"
    )
    headings = ("class", "images", "precision", "recall", "F1")
    headings = headings if is_reference else (*headings, "recall drop", "lost", "gained")
    return Grid(
        f"{row.backend}: {which}",
        headings,
        tuple(_class_line(results.class_names[k], counts, k, is_reference) for k in chosen),
        note="" if is_reference else _chance_note(len(known)),
    )


def _class_line(name: str, counts: ClassCounts, k: int, is_reference: bool) -> tuple[str, ...]:
    images, right, answered = counts.images[k], counts.correct[k], counts.answered[k]
    recall, precision = right / images, right / answered if answered else None
    cells = (
        name,
        f"{images:,}",
        EMPTY if precision is None else percent(100 * precision),
        percent(100 * recall),
        percent(100 * 2 * right / (images + answered)),
    )
    if is_reference:
        return cells
    drop = points(100 * (counts.lost[k] - counts.gained[k]) / images)
    return (*cells, drop, f"{counts.lost[k]:,}", f"{counts.gained[k]:,}")


def _chance_note(classes: int) -> str:
    return (
        f"Lost: only the reference is right; gained: only this backend is. Of {classes:,} classes some drop by chance "
        "alone; for a single class, six lost images and none gained are beyond it."
    )


def confusion_matrices(results: Results) -> tuple[Matrix, ...]:
    """The matrix of every backend, where there are few enough classes to read one."""
    if results.untrained or not 0 < len(results.class_names) <= MOST_CLASSES_SHOWN:
        return ()
    return tuple(
        _matrix(results.class_names, row, row.classes) for row in results.rows if row.classes
    )


def _matrix(names: tuple[str, ...], row: Row, counts: ClassCounts) -> Matrix:
    cells = [[0] * len(names) for _ in names]
    for k, right in enumerate(counts.correct):
        cells[k][k] = right
    for one in row.confusions:
        cells[one.label][one.answer] = one.images
    shares = [[images / (counts.images[k] or 1) for images in line] for k, line in enumerate(cells)]
    return Matrix(row.backend, names, tuple(map(tuple, cells)), tuple(map(tuple, shares)))


def confusion_grids(results: Results) -> tuple[Grid, ...]:
    """The most frequent confusions of every backend."""
    if results.untrained:
        return ()
    return tuple(
        Grid(
            f"{row.backend}: most frequent confusions",
            ("class", "taken for", "images", "of the class"),
            tuple(
                _confusion_line(results.class_names, row.classes, one)
                for one in row.confusions[:TOP_CONFUSIONS]
            ),
            names=2,
        )
        for row in results.rows
        if row.classes and row.confusions
    )


def _confusion_line(
    names: Sequence[str], counts: ClassCounts | None, one: Confusion
) -> tuple[str, ...]:
    share = percent(100 * one.images / counts.images[one.label]) if counts else EMPTY
    return names[one.label], names[one.answer], f"{one.images:,}", share


def curve_grid(results: Results) -> Grid | None:
    """The area under the ROC curve and the average precision of each class, by backend."""
    rows = [row for row in results.rows if row.curves]
    if results.untrained or not rows:
        return None
    labels = dict.fromkeys(curve.label for row in rows for curve in row.curves)
    lines = tuple(
        (
            "all pooled" if label is None else results.class_names[label],
            *(_areas(next((c for c in row.curves if c.label == label), None)) for row in rows),
        )
        for label in labels
    )
    return Grid(
        "Area under the ROC curve / average precision",
        ("class", *(row.backend for row in rows)),
        lines,
        note="The score of a class is the log-odds of its softmax probability, in steps of an eighth.",
    )


def _areas(curve: Curve | None) -> str:
    return f"{curve.roc_auc:.4f} / {curve.average_precision:.4f}" if curve else EMPTY


def flip_groups(results: Results) -> tuple[FlipGroup, ...]:
    """The images that each backend answers otherwise than the reference, with what is said of each."""
    return tuple(_flip_group(results, row) for row in results.rows if row.flips)


def _flip_group(results: Results, row: Row) -> FlipGroup:
    total = len(row.flips)
    if row.agreement is not None:
        total = max(total, round(row.images * (1 - row.agreement.estimate / 100)))
    shown = f"{total:,}" if total == len(row.flips) else f"{len(row.flips)} of {total:,}"
    return FlipGroup(
        row.backend,
        f"{row.backend}: {shown} flipped",
        tuple((flip, _flip_kind(flip)) for flip in row.flips),
    )


def _flip_kind(flip: Flip) -> str:
    if flip.reference.label == flip.label:
        return "lost"
    return "gained" if flip.candidate.label == flip.label else "both wrong"


def answer_text(answer: Answer, names: Sequence[str]) -> str:
    """`tench 81.20 %`."""
    if answer.label is None or answer.probability is None:
        return "nothing: not finite"
    return f"{names[answer.label]} {percent(100 * answer.probability)}"


def timing_grid(results: Results) -> Grid | None:
    """Every backend at every batch size."""
    lines = [
        (row.backend, *_timing_cells(timing), row.speedup_over or EMPTY)
        for row in results.rows
        for timing in timings(row)
    ]
    if not lines:
        return None
    headings = ("backend", "batch", "min", "median", "p90", "p99", "img/s", "speed-up", "over")
    return Grid("Latency at every batch size", headings, tuple(lines))


def timings(row: Row) -> tuple[Timing, ...]:
    """What was timed of a row, the first batch size first."""
    if row.latency_ms is None or row.throughput_img_s is None:
        return ()
    return Timing(row.latency_ms, row.throughput_img_s, row.speedup), *row.other_batches


def _timing_cells(timing: Timing) -> tuple[str, ...]:
    latency, speedup = timing.latency_ms, timing.speedup
    quantiles = (milliseconds(ms) for ms in (latency.min, latency.median, latency.p90, latency.p99))
    shown = f"{ratio(speedup.estimate)} {ratio_range(speedup)}" if speedup else EMPTY
    mark = "" if latency.stable else " (not stable)"
    return f"{latency.batch}{mark}", *quantiles, three_digits(timing.throughput_img_s), shown


def gpu_grid(states: Sequence[GpuState]) -> Grid | None:
    """What the GPU did during each latency measurement."""
    if not states:
        return None
    return Grid(
        "The GPU while latencies were measured",
        ("GPU", "batch", "SM clock", "moved", "power", "temperature", "lower clocks because of"),
        tuple(
            (
                s.name,
                str(s.batch),
                f"{s.sm_mhz[0]} to {s.sm_mhz[1]} MHz",
                percent(s.clock_movement),
                f"{s.power_w[0]:.0f} to {s.power_w[1]:.0f} W",
                f"{s.temperature_c[0]} to {s.temperature_c[1]} °C",
                ", ".join(s.throttling) or "nothing",
            )
            for s in states
        ),
    )
