"""Latencies of a benchmark as an SVG file with its own colours."""
# pyright: reportUnknownMemberType=false
# Matplotlib's **kwargs are untyped.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hvt_deploy.evaluation.report.number_format import format_milliseconds
from hvt_deploy.evaluation.report.svg import (
    COLOURS,
    colour_of,
    draw_svg,
    short_label,
    write_svg_file,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _LABEL = 8.6, 48


def draw_latencies(latencies: Sequence[tuple[str, str, float]]) -> str:
    """A bar for each (name, precision, milliseconds), as the text of an SVG file."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        places = range(len(latencies))
        colours = [COLOURS[colour_of(precision)] for _, precision, _ in latencies]
        bars = axes.barh(places, [ms for *_, ms in latencies], color=colours)
        axes.bar_label(bars, [format_milliseconds(ms) for *_, ms in latencies], padding=4)
        axes.set_yticks(places, [short_label(name, _LABEL) for name, *_ in latencies])
        axes.invert_yaxis()
        axes.set_xlabel("median latency (ms)")

    described = "; ".join(f"{name}: {format_milliseconds(ms)}" for name, _, ms in latencies)
    size = _WIDTH, 1.0 + 0.34 * max(1, len(latencies))
    return write_svg_file(draw_svg("benchmark", "Latency by backend", described, size, draw))
