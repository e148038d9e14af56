"""Latencies of a benchmark as an SVG file with its own colours."""
# pyright: reportUnknownMemberType=false
# Matplotlib's **kwargs are untyped.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hvt_deploy.evaluation.report.svg import COLOURS, colour_of, draw_svg, short_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _LABEL = 8.6, 48
# Of the variables in a plot: those of the report's page on a light ground.
_COLOURS = {
    "ink": "#19212c",
    "muted": "#5a6675",
    "line": "#dfe4ea",
    "panel": "#ffffff",
    "fp32": "#2360c4",
    "fp16": "#0d8060",
    "int8": "#b8500a",
    "other": "#6a4bbd",
}


def draw_latencies(latencies: Sequence[tuple[str, str, float]]) -> str:
    """A bar for each (name, precision, milliseconds), as the text of an SVG file."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        places = range(len(latencies))
        colours = [COLOURS[colour_of(precision)] for _, precision, _ in latencies]
        bars = axes.barh(places, [ms for *_, ms in latencies], color=colours)
        axes.bar_label(bars, [f"{ms:.3g}" for *_, ms in latencies], padding=4)
        axes.set_yticks(places, [short_label(name, _LABEL) for name, *_ in latencies])
        axes.invert_yaxis()
        axes.set_xlabel("latency, ms")

    described = "; ".join(f"{name}: {ms:.3g} ms" for name, _, ms in latencies)
    size = _WIDTH, 1.0 + 0.34 * max(1, len(latencies))
    inline = draw_svg("benchmark", "Latency by backend", described, size, draw)
    opened = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    drawn = inline.replace("<svg ", opened, 1)
    start = drawn.index(">") + 1
    style = ";".join(f"--{name}:{colour}" for name, colour in _COLOURS.items())
    return f"{drawn[:start]}<style>svg{{{style};background:#fff}}</style>{drawn[start:]}"
