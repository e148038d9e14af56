"""The search for a recipe within an accuracy budget: Markdown, and an SVG plot."""
# pyright: reportUnknownMemberType=false
# Matplotlib's **kwargs are untyped.

from __future__ import annotations

import io

from hvt_deploy.evaluation.budget_record import BudgetRecord
from hvt_deploy.evaluation.report.number_format import (
    format_decibels,
    format_percent,
    format_points,
    format_points_range,
)

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
    """Drop of top-1 with its interval against the share of MACs in INT8, per tried recipe: SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    alone = [(100 * g.mac_share, g.drop) for g in record.sensitivity]
    axes.plot(
        *zip(*alone, strict=True),
        "o",
        mfc="none",
        ms=5,
        color="#7a8594",
        label="single group in INT8",
    )
    for trial in record.trials:
        chosen = trial.excluded == record.chosen.excluded
        drop = trial.drop
        spread = [[drop.estimate - drop.low], [drop.high - drop.estimate]]
        axes.errorbar(
            100 * trial.int8_share,
            drop.estimate,
            spread,
            fmt="o" if chosen else ".",
            capsize=3,
            zorder=2 + chosen,
            color="#1b7f5c" if chosen else "#7a8594",
            label="chosen recipe" if chosen else None,
        )
    axes.axhline(
        record.budget,
        color="#b3402a",
        linestyle="--",
        linewidth=1,
        label=f"budget {record.budget:g}",
    )
    axes.set_xlabel("MACs in INT8 (%)")
    axes.set_ylabel(f"drop in {record.metric} (points)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date")))
    return stream.getvalue()
