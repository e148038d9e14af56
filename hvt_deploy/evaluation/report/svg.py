"""A matplotlib figure as an SVG element in the page's own colours: it follows light and dark."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from hvt_deploy.evaluation.report.number_format import escape_controls

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Plots are drawn in these colours, which then become the page's CSS variables.
COLOURS = {
    "ink": "#010101",
    "muted": "#020202",
    "line": "#030303",
    "panel": "#040404",
    "fp32": "#050505",
    "fp16": "#060606",
    "int8": "#070707",
    "other": "#080808",
}

# Their values on a light ground, for a plot in a file of its own.
_ON_WHITE = {
    "ink": "#19212c",
    "muted": "#5a6675",
    "line": "#dfe4ea",
    "panel": "#ffffff",
    "fp32": "#2360c4",
    "fp16": "#0d8060",
    "int8": "#b8500a",
    "other": "#6a4bbd",
}


def colour_of(precision: str) -> str:
    """The name of the colour that a precision has everywhere."""
    return next((name for name in ("fp32", "fp16", "int8") if precision.startswith(name)), "other")


def short_label(name: str, longest: int) -> str:
    """The name of a backend as a label: safe to write, and at most `longest` characters."""
    label = escape_controls(name)
    return label if len(label) <= longest else label[: longest - 1] + "…"


def write_tick(value: float, _: int) -> str:
    """A tick of an axis as Matplotlib's FuncFormatter asks for it: `0.5`, `20`."""
    return f"{value:g}"


def draw_svg(
    name: str,
    title: str,
    description: str,
    inches: tuple[float, float],
    draw: Callable[[Figure], None],
) -> str:
    """The plot that `draw` makes, as an SVG element with an accessible title and description.

    `name` keeps its ids apart from those of other plots in the page.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": name,  # ids stay the same from run to run
        "text.parse_math": False,  # a dollar sign in a name is no formula
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 10.5,
        "text.color": COLOURS["ink"],
        "axes.labelcolor": COLOURS["ink"],
        "axes.edgecolor": COLOURS["muted"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": COLOURS["muted"],
        "ytick.color": COLOURS["muted"],
        "grid.color": COLOURS["line"],
    }
    with mpl.rc_context(cast("Any", style)):  # pyright: ignore[reportUnknownMemberType]
        figure = Figure(figsize=inches, dpi=72, layout="constrained")
        draw(figure)
        stream = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(  # pyright: ignore[reportUnknownMemberType]
            stream, format="svg", transparent=True, metadata=metadata
        )
    return _inline(stream.getvalue(), name, title, description)


def write_svg_file(drawn: str) -> str:
    """The text of a file of what `draw_svg` drew, on white."""
    opened = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    drawn = drawn.replace("<svg ", opened, 1)
    start = drawn.index(">") + 1
    style = ";".join(f"--{variable}:{colour}" for variable, colour in _ON_WHITE.items())
    return f"{drawn[:start]}<style>svg{{{style};background:#fff}}</style>{drawn[start:]}"


def _inline(document: str, name: str, title: str, description: str) -> str:
    view_box = re.search(r'viewBox="([^"]*)"', document)
    body = document[document.index(">", document.index("<svg")) + 1 :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    # Matplotlib numbers its groups the same in every figure; nothing refers to them.
    body = re.sub(r' id="[A-Za-z0-9]+_\d+"', "", body)
    for colour, code in COLOURS.items():
        body = body.replace(code, f"var(--{colour})")
    return (
        f'<svg viewBox="{view_box[1] if view_box else ""}" role="img" '
        f'aria-labelledby="{name}-title {name}-description">'
        f'<title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-description">{html.escape(description)}</desc>{body}'
    )
