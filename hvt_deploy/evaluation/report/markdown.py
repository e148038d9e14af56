"""A record as GitHub-flavoured Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hvt_deploy.evaluation.record import Results
from hvt_deploy.evaluation.report.breakdown import (
    answer_text,
    class_grids,
    confusion_grids,
    curve_grid,
    flip_groups,
    gpu_grid,
    timing_grid,
)
from hvt_deploy.evaluation.report.content import (
    INTERVALS_SENTENCE,
    UNTRAINED_SENTENCE,
    UNTRAINED_TITLE,
    describe_data,
    describe_run,
    fill_table,
    format_gate,
    format_precision,
    list_entries,
    list_notes,
    list_skipped,
    list_terms,
    make_accuracy_columns,
    make_run_columns,
    make_summary_columns,
)
from hvt_deploy.evaluation.report.engine_costs import cost_grids, list_costs
from hvt_deploy.evaluation.report.engine_layers import engines_table
from hvt_deploy.evaluation.report.number_format import escape_controls
from hvt_deploy.evaluation.report.tables import Cell, Fact, Grid, Line, Table

# An underscore inside a word is no emphasis on GitHub, so names such as fdvit_b stay readable.
# GitHub makes links of addresses: `https://` and `www.`.
_SPECIAL = re.compile(
    r"[\\`*\[\]<>|~&$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\.", re.IGNORECASE
)
# At its start a line is a heading or a list: `# x`, `- x`, `1. x`.
_LINE_START = re.compile(r"^(\d*)([-+#.)])")


def render_markdown(results: Results) -> str:
    """The record as a Markdown page: the HTML report without plots and thumbnails."""
    blocks = [f"# {_escape(results.model)}: validation"]
    if results.untrained:
        blocks.append(f"> **{UNTRAINED_TITLE}.** {UNTRAINED_SENTENCE}")
    blocks.append(f"**{_escape(results.verdict)}**")
    blocks += [f"> **Error:** {_escape(e)}" for e in results.errors]
    blocks += [f"> **Warning:** {_escape(w)}" for w in results.warnings]
    blocks += ["## Results", *_results_table(fill_table(results, make_summary_columns(results)))]
    blocks += _section("Notes", _bullets(list_notes(results)))
    blocks += _section("Gates", _gates(results))
    blocks += _section("Precision comparison", _list(c.sentence for c in results.comparisons))
    blocks += _grids("Latency", (timing_grid(results), gpu_grid(results)))
    blocks += _grids("Classes", class_grids(results))
    blocks += _grids("Confusions", confusion_grids(results))
    blocks += _grids("ROC and precision-recall curves", (curve_grid(results),))
    blocks += _section("Flipped predictions", _flips(results))
    blocks += _section("Skipped backends", _bullets(list_skipped(results)))
    details = fill_table(results, make_accuracy_columns(results))
    blocks += _section("Accuracy details", _backend_table(details))
    runs = fill_table(results, make_run_columns(results))
    blocks += _section("Devices and artifacts", _backend_table(runs))
    blocks += _section("Engine layer precision", _backend_table(engines_table(results)))
    blocks += _section("Engine cost", _bullets(list_costs(results)))
    blocks += _grids("Engine cost by stage and role", cost_grids(results))
    blocks += _section("Data", _bullets(describe_data(results)))
    if results.data.unreadable:
        blocks.append("Unreadable files:\n\n" + _list(results.data.unreadable))
    blocks += _section(
        "Provenance", _bullets((*describe_run(results), *list_entries(results.provenance)))
    )
    blocks += _section("Environment", _bullets(list_entries(results.environment)))
    blocks += _section("Terms", _bullets(list_terms()))
    return escape_controls("\n\n".join(blocks) + "\n")


def _section(title: str, body: str) -> list[str]:
    return [f"## {title}", body] if body else []


def _grids(title: str, grids: Iterable[Grid | None]) -> list[str]:
    shown = [grid for grid in grids if grid is not None]
    blocks = [f"## {title}"] if shown else []
    for grid in shown:
        flush_right = [place >= grid.names for place in range(len(grid.headings))]
        rows = ([_escape(cell) for cell in row] for row in grid.rows)
        blocks += [
            f"**{_escape(grid.title)}**",
            _table([_escape(h) for h in grid.headings], flush_right, rows),
        ]
        blocks += [_escape(grid.note)] if grid.note else []
    return blocks


def _flips(results: Results) -> str:
    names = results.class_names
    lines = [
        f"- {_escape(group.backend)}, {kind}: {_escape(flip.path)} is "
        f"{_escape(names[flip.label])}; "
        f"reference {_escape(answer_text(flip.reference, names))}, "
        f"this backend {_escape(answer_text(flip.candidate, names))}"
        for group in flip_groups(results)
        for flip, kind in group.flips
    ]
    return "\n".join(lines)


def _results_table(table: Table) -> list[str]:
    if not table.lines:
        return ["No backend ran."]
    return [_backend_table(table), INTERVALS_SENTENCE]


def _backend_table(table: Table) -> str:
    if not table.lines:
        return ""
    titles = ["backend", "precision", *(c.title for c in table.columns)]
    aligned = [False, False, *(not c.is_text for c in table.columns)]
    return _table(
        titles,
        aligned,
        ([*_backend_cell(line), *(_value_cell(c) for c in line.cells)] for line in table.lines),
    )


def _gates(results: Results) -> str:
    if not results.gates:
        return ""
    titles = ["gate", "backend", "status", "reason"]
    rows = (
        [f"`{format_gate(g)}`", _escape(g.backend), f"**{g.status}**", _escape(g.sentence)]
        for g in results.gates
    )
    return _table(titles, [False] * len(titles), rows)


def _table(
    titles: Sequence[str], flush_right: Sequence[bool], rows: Iterable[Sequence[str]]
) -> str:
    rule = ["---:" if right else "---" for right in flush_right]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rule, *rows))


def _backend_cell(line: Line) -> tuple[str, str]:
    return _escape(line.row.backend) + (" (reference)" if line.is_reference else ""), _escape(
        format_precision(line.row)
    )


def _value_cell(cell: Cell) -> str:
    return _escape(cell.value) + (f" {cell.spread}" if cell.spread else "")


def _bullets(facts: Sequence[Fact]) -> str:
    return "\n".join(f"- **{_escape(f.label)}**: {_escape(f.value)}" for f in facts)


def _list(texts: Iterable[str]) -> str:
    return "\n".join("- " + _LINE_START.sub(r"\1\\\2", _escape(text)) for text in texts)


def _escape(text: str) -> str:
    """Text of the record as just that: no markup, no HTML, one line."""
    return _SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))
