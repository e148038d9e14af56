"""Plot of accuracy against latency, with the Pareto front."""
# pyright: reportUnknownMemberType=false
# Matplotlib's **kwargs are untyped.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from hvt_deploy.evaluation.record import Results
from hvt_deploy.evaluation.report.content import format_precision
from hvt_deploy.evaluation.report.number_format import (
    format_milliseconds,
    format_percent,
    format_percent_range,
)
from hvt_deploy.evaluation.report.svg import COLOURS, colour_of, draw_svg, short_label, write_tick
from hvt_deploy.evaluation.scores import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INCHES = (8.6, 4.6)
_LONGEST_LABEL = 40


@dataclass(frozen=True)
class _Place:
    """A candidate position of a label: offset from the point in 1/72 inch, and its anchor side."""

    right: float
    """Offset to the right, 1/72 inch."""
    up: float
    """Offset upwards, 1/72 inch."""
    align: Literal["left", "center", "right"]
    """Which side of the text is at the offset, horizontally."""
    stand: Literal["bottom", "center", "top"]
    """Which side of the text is at the offset, vertically."""
    is_far: bool
    """Whether a line has to connect the label with its point."""


# The nearer and the better first.
_LABEL_SIDES: tuple[
    tuple[float, float, Literal["left", "center", "right"], Literal["bottom", "center", "top"]], ...
] = (
    (1.0, 0.0, "left", "center"),
    (0.7, 0.7, "left", "bottom"),
    (0.7, -0.7, "left", "top"),
    (-1.0, 0.0, "right", "center"),
    (-0.7, 0.7, "right", "bottom"),
    (-0.7, -0.7, "right", "top"),
    (0.0, 1.0, "center", "bottom"),
    (0.0, -1.0, "center", "top"),
)
_LABEL_PLACES = tuple(
    _Place(distance * right, distance * up, align, stand, distance > 9)
    for distance in (9.0, 20.0, 34.0, 50.0, 68.0, 90.0)
    for right, up, align, stand in _LABEL_SIDES
)


def draw_pareto(results: Results) -> str:
    """Top-1 against latency as an SVG element; empty where no backend has both."""
    points = _find_points(results)
    if not points:
        return ""
    latency_title = _latency_title(results)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        _draw_points(axes, points)
        axes.set_xlabel(latency_title)
        axes.set_ylabel("top-1")
        figure.draw_without_rendering()
        _draw_labels(axes, points)

    described = "; ".join(
        f"{p.label}: {format_percent(p.top1.estimate)} {format_percent_range(p.top1)} "
        f"at {format_milliseconds(p.latency)}{'' if p.is_proven else ' (not proven)'}"
        for p in points
    )
    return draw_svg("pareto", f"Top-1 accuracy against {latency_title}", described, _INCHES, draw)


def explain_no_pareto(results: Results) -> str:
    """The reason why there is no such plot."""
    if results.untrained:
        return "No plot of accuracy against latency: the weights are untrained."
    return "No plot of accuracy against latency: no backend has both."


@dataclass(frozen=True)
class _Point:
    """A backend in the plot.

    Attributes:
        label: Its name.
        colour: That of its precision, a key of `COLOURS`.
        is_reference: Whether it is the reference of the validation.
        latency: Median in milliseconds.
        top1: In percent.
        is_proven: Whether the latency by itself proves anything.

    """

    label: str
    colour: str
    is_reference: bool
    latency: float
    top1: Interval
    is_proven: bool


def _latency_batches(results: Results) -> set[int]:
    return {row.timing.latency.batch for row in results.rows if row.timing}


def _latency_title(results: Results) -> str:
    batches = _latency_batches(results)
    return (
        f"median latency, batch {batches.pop()} (ms)"
        if len(batches) == 1
        else "median latency per image (ms)"
    )


def _find_points(results: Results) -> list[_Point]:
    """The backends with accuracy and latency, fastest first; per image where batches differ."""
    if results.untrained:
        return []
    several_models = len({row.model for row in results.rows}) > 1
    several_batches = len(_latency_batches(results)) > 1
    points: list[_Point] = []
    for row in results.rows:
        if row.accuracy is None or row.timing is None or row.timing.latency.median <= 0:
            continue
        name = f"{row.model} {row.backend}" if several_models else row.backend
        label = short_label(name, _LONGEST_LABEL)
        timed = row.timing.latency
        latency = timed.median / (timed.batch if several_batches else 1)
        points.append(
            _Point(
                label,
                colour_of(format_precision(row)),
                row is results.rows[0],
                latency,
                row.accuracy.top1,
                not row.timing.latency_fault,
            )
        )
    return sorted(points, key=lambda p: p.latency)


def _find_best(points: Sequence[_Point]) -> list[_Point]:
    """The Pareto front of proven latencies: backends that no faster one matches in accuracy, by
    their estimates.
    """
    proven = [p for p in points if p.is_proven]
    return [
        p
        for i, p in enumerate(proven)
        if all(p.top1.estimate > q.top1.estimate for q in proven[:i])
    ]


def _draw_points(axes: Axes, points: Sequence[_Point]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    best = _find_best(points)
    axes.step(
        [p.latency for p in best],
        [p.top1.estimate for p in best],
        where="post",
        color=COLOURS["muted"],
        linewidth=1.0,
        linestyle=(0, (4, 4)),
        zorder=1,
    )
    for point in points:
        colour = COLOURS[point.colour]
        axes.vlines(
            point.latency,
            point.top1.low,
            point.top1.high,
            color=colour,
            linewidth=1.6,
            alpha=0.55,
            zorder=2,
        )
        axes.plot(
            [point.latency],
            [point.top1.estimate],
            marker="D" if point.is_reference else "o",
            markersize=8,
            color=colour if point.is_proven else COLOURS["panel"],
            markeredgecolor=COLOURS["panel"] if point.is_proven else colour,
            markeredgewidth=1.2,
            zorder=3,
        )
    axes.grid(visible=True, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(y=0.12)
    axes.yaxis.set_major_formatter(FuncFormatter(_write_percent_tick))
    fastest, slowest = points[0].latency, points[-1].latency
    if slowest > 4 * fastest:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(write_tick))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(fastest / 1.5, slowest * 1.8)
    else:
        room = 0.3 * max(slowest - fastest, 0.3 * slowest)
        axes.set_xlim(max(0.0, fastest - room), slowest + room)


def _write_percent_tick(value: float, _: int) -> str:
    return f"{value:g} %" if 0 <= value <= 100 else ""


def _draw_labels(axes: Axes, points: Sequence[_Point]) -> None:
    """Write each label at the nearest place where it covers no point, interval, line or label."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.transforms import Bbox

    def overlap(box: Bbox, other: Bbox) -> float:
        shared = Bbox.intersection(box, other)
        return shared.width * shared.height if shared else 0.0

    renderer = RendererAgg(*axes.figure.bbox.size, 72)
    anchors = [axes.transData.transform((p.latency, p.top1.estimate)) for p in points]
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in anchors]
    for point in points:
        ends = axes.transData.transform(
            [(point.latency, point.top1.low), (point.latency, point.top1.high)]
        )
        taken.append(Bbox.from_extents(ends[0][0] - 2, ends[0][1], ends[1][0] + 2, ends[1][1]))
    corners = [axes.transData.transform((p.latency, p.top1.estimate)) for p in _find_best(points)]
    for (x, y), (next_x, next_y) in pairwise(corners):
        taken.append(Bbox.from_extents(x, y - 2, next_x, y + 2))
        taken.append(Bbox.from_extents(next_x - 2, y, next_x + 2, next_y))
    for point, (x, y) in zip(points, anchors, strict=True):
        probe = axes.text(0, 0, point.label)
        size = probe.get_window_extent(renderer)
        probe.remove()
        best_cost, best_place, best_box = float("inf"), _LABEL_PLACES[0], size
        for place in _LABEL_PLACES:
            left = (
                x + place.right + size.width * {"left": 0, "center": -0.5, "right": -1}[place.align]
            )
            bottom = (
                y + place.up + size.height * {"bottom": 0, "center": -0.5, "top": -1}[place.stand]
            )
            box = Bbox.from_bounds(left, bottom, size.width, size.height)
            outside = size.width * size.height - overlap(box, axes.bbox)
            cost = 3 * outside + sum(overlap(box, other) for other in taken)
            if cost < best_cost - 1:
                best_cost, best_place, best_box = cost, place, box
        taken.append(best_box)
        _draw_label(axes, point, best_place)


def _draw_label(axes: Axes, point: _Point, place: _Place) -> None:
    line = {
        "arrowstyle": "-",
        "color": COLOURS["muted"],
        "linewidth": 0.7,
        "shrinkA": 1,
        "shrinkB": 5,
    }
    label = axes.annotate(
        point.label,
        (point.latency, point.top1.estimate),
        (place.right, place.up),
        textcoords="offset points",
        horizontalalignment=place.align,
        verticalalignment=place.stand,
        arrowprops=line if place.is_far else None,
    )
    label.set_in_layout(False)
