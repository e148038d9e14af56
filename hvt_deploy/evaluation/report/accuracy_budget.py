"""The search for a recipe within an accuracy budget: Markdown, and an SVG plot."""
# pyright: reportUnknownMemberType=false
# Matplotlib's **kwargs are untyped.

from __future__ import annotations

from typing import TYPE_CHECKING

from hvt_deploy.evaluation.budget_record import BudgetRecord, Trial
from hvt_deploy.evaluation.report.number_format import (
    format_decibels,
    format_percent,
    format_points,
    format_points_range,
)
from hvt_deploy.evaluation.report.svg import COLOURS, draw_svg, write_svg_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SENSITIVITY_COLUMNS = ("group", "MACs", "SQNR", "drop", "INT8 in recipe")
SENSITIVITY_NOTE = "SQNR and drop: with only this group in INT8, against FP32."


def budget_sentence(record: BudgetRecord) -> str:
    """The chosen recipe, and its drop measured on held-out images."""
    chosen, promised = record.chosen, record.promised
    excluded = f" except {', '.join(chosen.excluded)}" if chosen.excluded else ""
    state = "within" if record.holds else "NOT proven to be within"
    return (
        f"INT8 in all groups{excluded}: {format_percent(100 * chosen.int8_share)} of the MACs. "
        f"On {record.confirm_images} held-out images {record.metric} drops by "
        f"{format_points(promised.estimate)} {format_points_range(promised)}, "
        f"{state} the budget of {record.budget:g} points."
    )


def sensitivity_rows(record: BudgetRecord) -> list[tuple[str, ...]]:
    """One row of `SENSITIVITY_COLUMNS` per group, the most sensitive first."""
    return [
        (
            g.group,
            format_percent(100 * g.mac_share),
            format_decibels(g.sqnr_db),
            format_points(g.drop),
            "no" if g.group in record.chosen.excluded else "yes",
        )
        for g in record.sensitivity
    ]


def render_budget(record: BudgetRecord, plot: str) -> str:
    """The whole report as Markdown; `plot` is the name of the file with the plot."""
    lines = [
        "# INT8 within an accuracy budget",
        "",
        budget_sentence(record),
        "",
        f"![accuracy drop against share of INT8 MACs]({plot})",
        "",
    ]
    lines += [
        "| " + " | ".join(SENSITIVITY_COLUMNS) + " |",
        "|---" * len(SENSITIVITY_COLUMNS) + "|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in sensitivity_rows(record)]
    lines += ["", SENSITIVITY_NOTE, ""]
    lines += [f"Searched on {record.search_images} images, {len(record.trials)} recipes:", ""]
    lines += ["| INT8 MACs | drop | SQNR | groups not quantized |", "|---|---|---|---|"]
    lines += [
        f"| {format_percent(100 * t.int8_share)} "
        f"| {format_points(t.drop.estimate)} {format_points_range(t.drop)} "
        f"| {format_decibels(t.sqnr_db)} | {', '.join(t.excluded) or 'none'} |"
        for t in record.trials
    ]
    return "\n".join(lines) + "\n"


def draw_budget(record: BudgetRecord) -> str:
    """Drop of top-1 with its interval against the share of MACs in INT8, per tried recipe, as the
    text of an SVG file.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        alone = [(100 * g.mac_share, g.drop) for g in record.sensitivity]
        axes.plot(
            *zip(*alone, strict=True),
            "o",
            mfc="none",
            ms=5,
            color=COLOURS["other"],
            label="one group in INT8",
        )
        is_labelled = False
        for trial in record.trials:
            is_chosen = trial.excluded == record.chosen.excluded
            label = "chosen recipe" if is_chosen else "other recipes" if not is_labelled else None
            is_labelled |= not is_chosen
            _draw_trial(axes, trial, is_chosen=is_chosen, label=label)
        limit = f"budget: {record.budget:g} points"
        axes.axhline(record.budget, color=COLOURS["int8"], linestyle="--", linewidth=1, label=limit)
        axes.set_xlim(0, 100)
        axes.set_xlabel("MACs in INT8 (%)")
        axes.set_ylabel(f"drop in {record.metric} (points)")
        axes.grid(visible=True, linewidth=0.8)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)

    title = "Accuracy drop by share of INT8"
    return write_svg_file(draw_svg("budget", title, budget_sentence(record), (8.6, 4.6), draw))


def _draw_trial(axes: Axes, trial: Trial, *, is_chosen: bool, label: str | None) -> None:
    drop = trial.drop
    axes.errorbar(
        100 * trial.int8_share,
        drop.estimate,
        [[drop.estimate - drop.low], [drop.high - drop.estimate]],
        fmt="o" if is_chosen else ".",
        capsize=3,
        zorder=2 + is_chosen,
        color=COLOURS["fp16" if is_chosen else "muted"],
        label=label,
    )
