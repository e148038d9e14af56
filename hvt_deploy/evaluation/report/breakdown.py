"""Detail tables: classes, confusions, curves, flipped predictions, batch sizes, GPU timing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvt_deploy.evaluation.record import Results, Row
from hvt_deploy.evaluation.report.number_format import (
    EMPTY,
    format_milliseconds,
    format_percent,
    format_points,
    format_three_digits,
)
from hvt_deploy.evaluation.report.speed_cells import speedup_cell
from hvt_deploy.evaluation.report.tables import Grid, Matrix
from hvt_deploy.evaluation.scores import (
    Accuracy,
    Answer,
    ClassCounts,
    Confusion,
    Curve,
    Fidelity,
    Flip,
    GpuTiming,
    Timing,
)

# Up to this number of classes, all classes and the whole confusion matrix are shown.
MOST_CLASSES_SHOWN = 50
WORST_CLASSES = 25
TOP_CONFUSIONS = 20


@dataclass(frozen=True)
class FlipGroup:
    """The flipped predictions of one backend that the record keeps.

    Attributes:
        backend: name of the backend.
        title: says how many there are, and how many are shown.
        flips: each with its kind: lost, gained or both wrong.

    """

    backend: str
    title: str
    flips: tuple[tuple[Flip, str], ...]


def class_grids(results: Results) -> tuple[Grid, ...]:
    """Precision, recall and F1 per class for every backend; with many classes, the worst ones."""
    if results.untrained:
        return ()
    return tuple(
        _class_grid(results, row, row.accuracy.classes)
        for row in results.rows
        if row.accuracy and row.accuracy.classes and results.class_names
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
        "all classes"
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
        EMPTY if precision is None else format_percent(100 * precision),
        format_percent(100 * recall),
        format_percent(100 * 2 * right / (images + answered)),
    )
    if is_reference:
        return cells
    drop = format_points(100 * (counts.lost[k] - counts.gained[k]) / images)
    return (*cells, drop, f"{counts.lost[k]:,}", f"{counts.gained[k]:,}")


def _chance_note(classes: int) -> str:
    return (
        "Lost: correct in the reference only. Gained: correct in this backend only. "
        f"With {classes:,} classes, some drop by chance; for a single class, six images lost and "
        "none gained is significant (McNemar p = 0.03)."
    )


def confusion_matrices(results: Results) -> tuple[Matrix, ...]:
    """The matrix of every backend, if there are at most `MOST_CLASSES_SHOWN` classes."""
    if results.untrained or not 0 < len(results.class_names) <= MOST_CLASSES_SHOWN:
        return ()
    return tuple(
        _matrix(results.class_names, row.backend, row.accuracy, row.accuracy.classes)
        for row in results.rows
        if row.accuracy and row.accuracy.classes
    )


def _matrix(
    names: tuple[str, ...], backend: str, accuracy: Accuracy, counts: ClassCounts
) -> Matrix:
    cells = [[0] * len(names) for _ in names]
    for k, right in enumerate(counts.correct):
        cells[k][k] = right
    for one in accuracy.confusions:
        cells[one.label][one.answer] = one.images
    shares = [[images / (counts.images[k] or 1) for images in line] for k, line in enumerate(cells)]
    return Matrix(backend, names, tuple(map(tuple, cells)), tuple(map(tuple, shares)))


def confusion_grids(results: Results) -> tuple[Grid, ...]:
    """The most frequent confusions of every backend."""
    if results.untrained:
        return ()
    return tuple(
        Grid(
            f"{row.backend}: most frequent confusions",
            ("true class", "predicted class", "images", "share of class"),
            tuple(
                _confusion_line(results.class_names, row.accuracy.classes, one)
                for one in row.accuracy.confusions[:TOP_CONFUSIONS]
            ),
            names=2,
        )
        for row in results.rows
        if row.accuracy and row.accuracy.classes and row.accuracy.confusions
    )


def _confusion_line(
    names: Sequence[str], counts: ClassCounts | None, one: Confusion
) -> tuple[str, ...]:
    share = format_percent(100 * one.images / counts.images[one.label]) if counts else EMPTY
    return names[one.label], names[one.answer], f"{one.images:,}", share


def curve_grid(results: Results) -> Grid | None:
    """Area under the ROC curve and average precision per class, by backend."""
    curves = {
        row.backend: row.accuracy.curves
        for row in results.rows
        if row.accuracy and row.accuracy.curves
    }
    if results.untrained or not curves:
        return None
    labels = dict.fromkeys(curve.label for some in curves.values() for curve in some)
    lines = tuple(
        (
            "all classes, pooled" if label is None else results.class_names[label],
            *(
                _areas(next((c for c in some if c.label == label), None))
                for some in curves.values()
            ),
        )
        for label in labels
    )
    return Grid(
        "Area under the ROC curve / average precision",
        ("class", *curves),
        lines,
        note="Class scores are log-odds of the softmax probability, rounded to 1/8.",
    )


def _areas(curve: Curve | None) -> str:
    return f"{curve.roc_auc:.4f} / {curve.average_precision:.4f}" if curve else EMPTY


def flip_groups(results: Results) -> tuple[FlipGroup, ...]:
    """The images for which a backend predicts another class than the reference."""
    return tuple(
        _flip_group(row, row.fidelity)
        for row in results.rows
        if row.fidelity and row.fidelity.flips
    )


def _flip_group(row: Row, fidelity: Fidelity) -> FlipGroup:
    kept = len(fidelity.flips)
    total = max(kept, round(row.images * (1 - fidelity.agreement.estimate / 100)))
    shown = f"{total:,}" if total == kept else f"{kept} of {total:,}"
    return FlipGroup(
        row.backend,
        f"{row.backend}: {shown} flipped",
        tuple((flip, _flip_kind(flip)) for flip in fidelity.flips),
    )


def _flip_kind(flip: Flip) -> str:
    if flip.reference.label == flip.label:
        return "lost"
    return "gained" if flip.candidate.label == flip.label else "both wrong"


def answer_text(answer: Answer, names: Sequence[str]) -> str:
    """`tench 81.20 %`."""
    if answer.label is None or answer.probability is None:
        return "no prediction (logits not finite)"
    return f"{names[answer.label]} {format_percent(100 * answer.probability)}"


def timing_grid(results: Results) -> Grid | None:
    """Latency of every backend at every batch size."""
    lines = [
        (row.backend, *_timing_cells(timing)) for row in results.rows for timing in row.timings
    ]
    if not lines:
        return None
    figures = ("min", "median", "p90", "p99", "img/s", "speed-up", "relative to")
    return Grid("Latency by batch size", ("backend", "batch", *figures), tuple(lines))


def _timing_cells(timing: Timing) -> tuple[str, ...]:
    latency, speedup = timing.latency, speedup_cell(timing)
    quantiles = (
        format_milliseconds(ms) for ms in (latency.min, latency.median, latency.p90, latency.p99)
    )
    mark = " (not proven)" if timing.latency_fault else ""
    return (
        f"{latency.batch}{mark}",
        *quantiles,
        format_three_digits(latency.throughput_img_s),
        f"{speedup.value} {speedup.spread}" if speedup else EMPTY,
        timing.speedup_over or EMPTY,
    )


def gpu_grid(results: Results) -> Grid | None:
    """Latencies of the GPU by CUDA events, and its state in the windows of each."""
    lines = [
        (row.backend, f"{timing.latency.batch}", *_gpu_cells(timing.latency.median, gpu))
        for row in results.rows
        for timing in row.timings
        if (gpu := timing.latency.gpu)
    ]
    if not lines:
        return None
    times = ("one call", "back to back", "CUDA graph")
    state = ("SM clock", "power", "temperature", "throttling")
    return Grid(
        "GPU timing, by CUDA events",
        ("backend", "batch", *times, *state),
        tuple(lines),
        note="Clock, power and temperature are those after the windows of this backend.",
    )


def _gpu_cells(one_call_ms: float, gpu: GpuTiming) -> tuple[str, ...]:
    state = gpu.state
    return (
        format_milliseconds(one_call_ms),
        format_milliseconds(gpu.back_to_back_ms),
        "yes" if gpu.launches.cuda_graph else "no",
        _format_range(state.sm_mhz, "MHz") if state else EMPTY,
        _format_range(state.power_w, "W") if state else EMPTY,
        _format_range(state.temperature_c, "°C") if state else EMPTY,
        (", ".join(state.throttling) or "none") if state else EMPTY,
    )


def _format_range(limits: tuple[float, float], unit: str) -> str:
    return f"{limits[0]:.0f} to {limits[1]:.0f} {unit}" if any(limits) else "not reported"
