"""Latency distributions, ROC curves and precision-recall curves as SVG elements."""
# pyright: reportUnknownMemberType=false
# Matplotlib's **kwargs are untyped.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.evaluation.record import Results, Row
from hvt_deploy.evaluation.report.content import format_precision
from hvt_deploy.evaluation.report.number_format import (
    escape_controls,
    format_milliseconds,
)
from hvt_deploy.evaluation.report.svg import COLOURS, colour_of, draw_svg, short_label, write_tick
from hvt_deploy.evaluation.scores import Curve, Latency

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 8.6
_HISTOGRAM_BINS = 120
_LINE_STYLES = ("-", "--", ":", "-.")
_LONGEST_TICK_LABEL = 28


def draw_latencies(results: Results) -> str:
    """Density of the timed runs per backend at the first batch size; empty if none was timed."""
    timed = [
        (row, row.timing.latency)
        for row in results.rows
        if row.timing and row.timing.latency.samples_ms
    ]
    timed = [(row, latency) for row, latency in timed if latency.min > 0]
    if not timed:
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        low = min(latency.min for _, latency in timed) / 1.04
        high = max(max(latency.p99, 1.02 * latency.median) for _, latency in timed) * 1.15
        for place, (row, latency) in enumerate(timed):
            _draw_ridge(
                axes, -place, COLOURS[colour_of(format_precision(row))], latency, (low, high)
            )
        _scale_milliseconds(axes, low, high)
        axes.set_yticks(
            [-place for place in range(len(timed))],
            [_tick_label(row) for row, _ in timed],
        )
        axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-len(timed) + 0.6, 0.95)
        axes.set_xlabel(f"latency of one inference, batch {timed[0][1].batch} (ms)")

    described = "; ".join(
        f"{row.backend}: median {format_milliseconds(latency.median)}" for row, latency in timed
    )
    height = 0.9 + 0.62 * len(timed)
    return draw_svg(
        "latencies",
        "Latency distribution",
        escape_controls(described),
        (_WIDTH, height),
        draw,
    )


def _tick_label(row: Row) -> str:
    label = short_label(row.backend, _LONGEST_TICK_LABEL)
    return f"{label}\n(not proven)" if row.timing and row.timing.latency_fault else label


def draw_curves(results: Results) -> str:
    """ROC and precision-recall curves per backend: pooled (thick) and per class (thin)."""
    drawn = [
        (row, row.accuracy.curves) for row in results.rows if row.accuracy and row.accuracy.curves
    ]
    if not drawn or results.untrained:
        return ""

    from matplotlib.ticker import FuncFormatter

    def draw(figure: Figure) -> None:
        roc, pr = figure.subplots(1, 2)
        lowest_rate = min(
            rate
            for _, curves in drawn
            for curve in curves
            for rate in curve.false_positive_rate
            if rate > 0
        )
        styles = _styles([row for row, _ in drawn])
        for (row, curves), style in zip(drawn, styles, strict=True):
            colour = COLOURS[colour_of(format_precision(row))]
            for curve in curves:
                is_pooled = curve.label is None
                width, alpha = (1.9, 1.0) if is_pooled else (0.6, 0.25)
                line = {
                    "color": colour,
                    "linewidth": width,
                    "alpha": alpha,
                    "linestyle": style if is_pooled else "-",
                }
                rates = np.maximum(curve.false_positive_rate, lowest_rate / 2)
                roc.step(
                    rates,
                    curve.recall,
                    where="post",
                    label=short_label(row.backend, _LONGEST_TICK_LABEL) if is_pooled else None,
                    **line,
                )
                pr.step(curve.recall, curve.precision, where="post", **line)
        roc.set_xscale("log")
        roc.xaxis.set_major_formatter(FuncFormatter(write_tick))
        roc.set_xlabel("false positive rate")
        roc.set_ylabel("recall")
        pr.set_xlabel("recall")
        pr.set_ylabel("precision")
        for axes in (roc, pr):
            axes.grid(visible=True, linewidth=0.8)
            axes.set_axisbelow(True)
            axes.set_ylim(top=1.01)
        roc.legend(loc="lower right", frameon=False, fontsize=9)

    return draw_svg(
        "curves", "ROC and precision-recall curves", _describe_curves(drawn), (_WIDTH, 3.9), draw
    )


def _describe_curves(drawn: Sequence[tuple[Row, Sequence[Curve]]]) -> str:
    """Areas of the pooled curves, for readers that do not see the plot."""
    described = "; ".join(
        f"{row.backend}: area under the ROC curve {curve.roc_auc:.4f}, "
        f"average precision {curve.average_precision:.4f}"
        for row, curves in drawn
        for curve in curves
        if curve.label is None
    )
    return escape_controls(described)


def _draw_ridge(
    axes: Axes, base: float, colour: str, latency: Latency, limits: tuple[float, float]
) -> None:
    edges = np.geomspace(*limits, _HISTOGRAM_BINS + 1)
    counts, _ = np.histogram(latency.samples_ms, edges)
    density = _smooth(counts)
    middles = np.sqrt(edges[:-1] * edges[1:])
    heights = np.where(density > 0, base + 0.72 * density / max(density.max(), 1e-9), np.nan)
    axes.axhline(base, color=COLOURS["line"], linewidth=0.8, zorder=0)
    axes.fill_between(middles, base, heights, color=colour, alpha=0.22, linewidth=0)
    axes.plot(middles, heights, color=colour, linewidth=1.4)
    axes.vlines(latency.median, base, base + 0.72, color=colour, linewidth=2.2)
    axes.vlines([latency.p90, latency.p99], base - 0.07, base + 0.07, color=colour, linewidth=1.4)
    text, end = format_milliseconds(latency.median), max(latency.p99, latency.median)
    axes.annotate(
        text,
        (end, base + 0.2),
        (6, 0),
        textcoords="offset points",
        va="bottom",
        color=COLOURS["ink"],
    )


def _smooth(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    kernel = np.exp(-0.5 * np.square(np.arange(-4, 5) / 1.3))
    smooth = np.convolve(counts.astype(np.float64), kernel / kernel.sum(), mode="same")
    return np.asarray(smooth, np.float64)


def _scale_milliseconds(axes: Axes, low: float, high: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(
        LogLocator(subs=(1.0, 2.0, 5.0)) if high > 4 * low else MaxNLocator(6)
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(write_tick))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, axis="x", linewidth=0.8)
    axes.set_axisbelow(True)


def _styles(rows: Sequence[Row]) -> list[str]:
    """One line style per row; rows of the same colour differ in their dashes."""
    seen: dict[str, int] = {}
    styles: list[str] = []
    for row in rows:
        colour = colour_of(format_precision(row))
        styles.append(_LINE_STYLES[seen.get(colour, 0) % len(_LINE_STYLES)])
        seen[colour] = seen.get(colour, 0) + 1
    return styles
