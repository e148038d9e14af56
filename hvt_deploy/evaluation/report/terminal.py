"""A record, an engine audit or a plain table on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table as RichTable
from rich.text import Text

from hvt_deploy.core.types import Precision
from hvt_deploy.evaluation.record import Results
from hvt_deploy.evaluation.report.content import (
    INTERVALS_SENTENCE,
    UNTRAINED_SENTENCE,
    UNTRAINED_TITLE,
    Tone,
    choose_gate_tone,
    choose_verdict_tone,
    describe_data,
    fill_table,
    format_gate,
    format_precision,
    list_notes,
    list_skipped,
    make_summary_columns,
)
from hvt_deploy.evaluation.report.engine_costs import (
    describe_costs,
    list_cost_grids,
    list_costs,
)
from hvt_deploy.evaluation.report.engine_layers import (
    GROUP_COLUMNS,
    audit_facts,
    engine_facts,
    group_rows,
)
from hvt_deploy.evaluation.report.number_format import (
    EMPTY,
    escape_controls,
    format_count,
)
from hvt_deploy.evaluation.report.tables import Cell, Line, Table
from hvt_deploy.graph.analysis.engine_audit import EngineAudit
from hvt_deploy.graph.analysis.engine_cost import ProfileCost

STYLES: dict[Tone, str] = {
    "good": "bold green",
    "bad": "bold red",
    "warning": "bold yellow",
    "neutral": "bold",
}
SHOWN_UNREADABLE = 5


def print_results(results: Results, console: Console) -> None:
    """Print verdict, table of backends, gates, skipped backends, warnings and data of a record."""
    if results.untrained:
        console.print(
            Panel(
                plain_text(UNTRAINED_SENTENCE),
                title=UNTRAINED_TITLE,
                style="bold red",
                box=box.HEAVY,
            )
        )
    console.print(
        Panel(
            plain_text(results.verdict),
            title=plain_text(results.model),
            border_style=STYLES[choose_verdict_tone(results)],
        )
    )
    for table in _result_tables(results, console):
        console.print(table)
    hint = f"{INTERVALS_SENTENCE} Terms: hvt-deploy validate --help"
    console.print(plain_text(hint, "dim"), soft_wrap=True)
    _print_list(console, "Notes", [(f.label, f.value, "") for f in list_notes(results)])
    _print_list(
        console,
        "Gates",
        [
            (g.status, f"{g.backend}, {format_gate(g)}. {g.sentence}", STYLES[choose_gate_tone(g)])
            for g in results.gates
        ],
    )
    _print_list(
        console,
        "Engine layer precision",
        [(f.label, f.value, "") for f in engine_facts(results)],
    )
    _print_list(console, "Engine cost", [(f.label, f.value, "") for f in list_costs(results)])
    _print_list(
        console, "Skipped backends", [(f.label, f.value, "yellow") for f in list_skipped(results)]
    )
    _print_list(
        console, "Precision comparison", [("", c.sentence, "") for c in results.comparisons]
    )
    _print_list(console, "Errors", [("", e, "bold red") for e in results.errors])
    _print_list(console, "Warnings", [("", w, "bold yellow") for w in results.warnings])
    _print_data(results, console)


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], console: Console
) -> None:
    """Print a plain table. Columns that hold only numbers are set flush right."""
    lines = [list(row) for row in rows]
    table = RichTable(
        title=plain_text(title, "bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for index, name in enumerate(columns):
        numeric = bool(lines) and all(_is_figure(line[index]) for line in lines)
        table.add_column(plain_text(name), justify="right" if numeric else "left", overflow="fold")
    for line in lines:
        table.add_row(*(plain_text(cell) for cell in line))
    console.print(table)
    console.print()


def print_audit(audit: EngineAudit, console: Console, *, by_group: bool = False) -> None:
    """Print the totals of an engine audit; with `by_group` also by stage and role."""
    print_table(
        "Engine",
        ("property", "value"),
        [(fact.label, fact.value) for fact in audit_facts(audit)],
        console,
    )
    if by_group:
        print_table("By stage and role", GROUP_COLUMNS, group_rows(audit), console)


def print_costs(precision: Precision, costs: Sequence[ProfileCost], console: Console) -> None:
    """Print the cost of an engine at each batch size, by stage and role, and in sentences."""
    for grid in list_cost_grids(precision, costs):
        print_table(grid.title, grid.headings, grid.rows, console)
    for line in describe_costs(precision, costs):
        console.print(plain_text(line), soft_wrap=True)


def _result_tables(results: Results, console: Console) -> list[RenderableType]:
    """One table where it fits, otherwise accuracy and speed below each other."""
    columns = make_summary_columns(results)
    whole = fill_table(results, columns)
    if not whole.lines:
        return [plain_text("No backend ran.", "bold yellow")]
    one = _rich_table(whole, "")
    unlimited = console.options.update(max_width=1000)
    if console.measure(one, options=unlimited).maximum <= console.width:
        return [one]
    parts = [
        fill_table(results, tuple(c for c in columns if c.group == group))
        for group in ("accuracy", "speed")
    ]
    return [
        _rich_table(_with_figures(part), part.columns[0].group.capitalize())
        for part in parts
        if part.columns
    ]


def _with_figures(table: Table) -> Table:
    return replace(
        table, lines=tuple(x for x in table.lines if any(cell.value != EMPTY for cell in x.cells))
    )


def _rich_table(table: Table, title: str) -> RichTable:
    rich_table = RichTable(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    # Where figures do not fit they are folded; a row without its name says nothing.
    rich_table.add_column("backend", no_wrap=True)
    for column in table.columns:
        rich_table.add_column(plain_text(column.title.replace(" (", "\n(")), justify="right")
    for line in table.lines:
        rich_table.add_row(_backend_text(line), *(_value_text(cell) for cell in line.cells))
    return rich_table


def _backend_text(line: Line) -> Text:
    tags = [format_precision(line.row), line.row.variant.device] + (
        ["reference"] if line.is_reference else []
    )
    return Text.assemble(
        (escape_controls(line.row.backend), "bold"),
        "\n",
        (escape_controls(", ".join(tags)), "dim"),
    )


def _value_text(cell: Cell) -> Text:
    return Text.assemble(cell.value, "\n", (cell.spread, "dim"))


def _print_list(console: Console, title: str, entries: Sequence[tuple[str, str, str]]) -> None:
    """Entries of (label, sentence, style of the label)."""
    if not entries:
        return
    grid = RichTable.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(overflow="fold")
    for label, sentence, style in entries:
        line = Text.assemble(
            (escape_controls(label), style or "bold"),
            ": " if label else "",
            escape_controls(sentence),
        )
        grid.add_row(plain_text("•"), line if label else plain_text(sentence, style))
    console.print(Group(Text(), plain_text(title, "bold"), grid))


def _print_data(results: Results, console: Console) -> None:
    facts = {f.label: f.value for f in describe_data(results)}
    line = (
        f"{facts['folder']}: {facts['images']}, {facts['classes']} classes. "
        f"Mapping: {facts['class mapping']}"
    )
    console.print(Group(Text(), Text.assemble(("Data: ", "bold"), escape_controls(line))))
    unreadable = results.data.unreadable
    if unreadable:
        names = ", ".join(unreadable[:SHOWN_UNREADABLE])
        hidden = len(unreadable) - SHOWN_UNREADABLE
        more = f" and {hidden:,} more" if hidden > 0 else ""
        skipped = f"Skipped {format_count(len(unreadable), 'unreadable file')}: {names}{more}"
        console.print(plain_text(skipped, "yellow"))


def _is_figure(text: str) -> bool:
    return bool(text) and text.strip("+-–.,%×0123456789 ") == ""


def plain_text(text: str, style: str = "") -> Text:
    """Text without markup, so that `[red]` in a path stays as it is."""
    return Text(escape_controls(text), style=style)
