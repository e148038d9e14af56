"""Numbers as text. A missing or meaningless number is `EMPTY`, never 'None' or 'nan'."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from hvt_deploy.evaluation.scores import Interval

EMPTY = "–"

# Control characters, line and paragraph separators, marks of direction (a file name may pretend to
# end otherwise than it does).
_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def format_percent(value: float) -> str:
    """`97.40 %`; more digits where rounding would hide the last wrong images: `99.998 %`."""
    if not math.isfinite(value):
        return EMPTY
    decimals = 2
    while decimals < 5 and value not in (0, 100) and float(f"{value:.{decimals}f}") in (0, 100):
        decimals += 1
    return f"{value:.{decimals}f} %"


def format_points(value: float) -> str:
    """A difference of two percentages: `+0.20 pts`."""
    return f"{_signed(value, 2)} pts" if math.isfinite(value) else EMPTY


def format_percent_range(interval: Interval) -> str:
    """`[95.6, 98.5]`, with a second decimal once the interval is narrower than half a point."""
    decimals = _range_decimals(interval)
    return _format_range(interval, lambda end: _unsigned(end, decimals))


def format_points_range(interval: Interval) -> str:
    """`[-0.4, +0.9]`, with a second decimal once the interval is narrower than half a point."""
    decimals = _range_decimals(interval)
    return _format_range(interval, lambda end: _signed(end, decimals))


def format_ratio(value: float) -> str:
    """`1.83×`, from ten on `12.3×`."""
    return f"{_ratio_digits(value)}×" if math.isfinite(value) else EMPTY


def format_ratio_range(interval: Interval) -> str:
    """`[1.79, 1.88]`."""
    return _format_range(interval, _ratio_digits)


def format_three_digits(value: float) -> str:
    """Three significant digits without an exponent: `0.842`, `12.3`, `1230`."""
    if not math.isfinite(value):
        return EMPTY
    if value == 0:
        return "0"
    rounded = float(f"{value:.2e}")
    return f"{rounded:.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"


def format_milliseconds(value: float) -> str:
    """`12.3 ms`."""
    return f"{format_three_digits(value)} ms" if math.isfinite(value) else EMPTY


def format_decibels(value: float) -> str:
    """`41.3 dB`; identical signals have an infinite ratio."""
    if value == math.inf:
        return "∞ dB"
    return f"{value:.1f} dB" if math.isfinite(value) else EMPTY


def format_cosine(value: float) -> str:
    """`0.99987`, with more digits nearer to 1; `> 0.9999999` beyond."""
    if not math.isfinite(value):
        return EMPTY
    for decimals in (5, 7):
        if value == 1 or float(f"{value:.{decimals}f}") != 1:
            return f"{value:.{decimals}f}"
    return "> 0.9999999"


def format_mebibytes(value: float) -> str:
    """`812 MiB`."""
    return f"{value:,.0f} MiB" if math.isfinite(value) else EMPTY


def format_probability(value: float) -> str:
    """`0.125`, and `< 0.001` below that."""
    if not math.isfinite(value):
        return EMPTY
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def format_count(value: int, singular: str, plural: str = "") -> str:
    """`1 image`, `50,000 images`."""
    return f"{value:,} {singular if value == 1 else plural or singular + 's'}"


def format_duration(seconds: float) -> str:
    """`40 s`, `3 min 20 s`, `1 h 12 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def escape_controls(text: str) -> str:
    """Make text of unknown origin safe to write.

    Control characters (terminal escapes in a file name), marks that turn the direction of text or
    break its lines, and bytes that were no UTF-8 become visible escapes; line breaks and tabs stay.
    """
    visible = _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)
    return visible.encode("utf-8", "backslashreplace").decode("utf-8")


def _signed(value: float, decimals: int) -> str:
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text


def _unsigned(value: float, decimals: int) -> str:
    """Without the minus that rounding leaves on a zero."""
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def _range_decimals(interval: Interval) -> int:
    return 1 if interval.high - interval.low >= 0.5 else 2


def _format_range(interval: Interval, format_end: Callable[[float], str]) -> str:
    """Both ends in brackets; empty where one is not finite."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return ""
    return f"[{format_end(interval.low)}, {format_end(interval.high)}]"


def _ratio_digits(value: float) -> str:
    return f"{value:.2f}" if 0.1 <= value < 9.995 else format_three_digits(value)
