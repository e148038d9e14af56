"""A result as a notebook shows it below its cell: sentences and tables as HTML, no style."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from hvt_deploy.evaluation.record import Results
from hvt_deploy.evaluation.report.content import (
    INTERVALS_SENTENCE,
    UNTRAINED_SENTENCE,
    UNTRAINED_TITLE,
    fill_table,
    format_gate,
    list_skipped,
    make_summary_columns,
)
from hvt_deploy.evaluation.report.number_format import escape_controls
from hvt_deploy.evaluation.report.tables import Grid


def render_cell(grids: Iterable[Grid], sentences: Iterable[str] = ()) -> str:
    """Tables, each with its title and note, and the sentences below them."""
    blocks = [_render_grid(grid) for grid in grids]
    blocks += [f"<p>{escape(sentence)}</p>" for sentence in sentences]
    return escape_controls(f"<div>{''.join(blocks)}</div>")


def render_results_cell(results: Results) -> str:
    """The verdict, the table of backends and the gates of a validation."""
    table = fill_table(results, make_summary_columns(results))
    rows = tuple(
        (line.row.backend, *(f"{cell.value} {cell.spread}".strip() for cell in line.cells))
        for line in table.lines
    )
    headings = ("backend", *(column.title for column in table.columns))
    untrained = [f"{UNTRAINED_TITLE}. {UNTRAINED_SENTENCE}"] if results.untrained else []
    gates = [f"{g.status}: {g.backend}, {format_gate(g)}. {g.sentence}" for g in results.gates]
    skipped = [f"Skipped: {fact.label}: {fact.value}" for fact in list_skipped(results)]
    sentences = [*untrained, results.verdict, *gates, *results.errors, *results.warnings, *skipped]
    return render_cell([Grid(results.model, headings, rows, note=INTERVALS_SENTENCE)], sentences)


def _render_grid(grid: Grid) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in grid.headings)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in grid.rows
    )
    note = f"<p>{escape(grid.note)}</p>" if grid.note else ""
    caption = f"<caption>{escape(grid.title)}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{note}"
