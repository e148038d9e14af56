"""A record on the terminal, and the other things a command says there: progress, errors, plain
tables.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text

from hvt_deploy.core.errors import HvtDeployError
from hvt_deploy.core.ui import Progress as ProgressCallback
from hvt_deploy.evaluation.record import Results
from hvt_deploy.evaluation.report.audit import GROUP_COLUMNS, audit_facts, engine_facts, group_rows
from hvt_deploy.evaluation.report.content import (
    INTERVALS_SENTENCE,
    UNTRAINED_SENTENCE,
    UNTRAINED_TITLE,
    Cell,
    Line,
    Table,
    Tone,
    data_facts,
    fill_table,
    gate_name,
    gate_tone,
    note_facts,
    skipped_facts,
    summary_columns,
    verdict_tone,
)
from hvt_deploy.evaluation.report.figures import EMPTY, count, duration, scrub
from hvt_deploy.graph.analysis.audit_types import EngineAudit

STYLES: dict[Tone, str] = {
    "good": "bold green",
    "bad": "bold red",
    "warning": "bold yellow",
    "neutral": "bold",
}
PIPE_WIDTH = 120
SECONDS_BETWEEN_PLAIN_LINES = 30.0
SHOWN_UNREADABLE = 5


def open_console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr that cannot fail on a character, and is wide where nobody
    watches.

    Rich takes 80 columns for a pipe or a log, which would fold tables; `COLUMNS` is respected.
    """
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    wide = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(stderr=stderr, width=PIPE_WIDTH if wide else None, highlight=False)


def print_results(results: Results, console: Console) -> None:
    """Print the verdict, the table of backends, gates, what was not run, warnings and the data."""
    if results.untrained:
        console.print(
            Panel(_text(UNTRAINED_SENTENCE), title=UNTRAINED_TITLE, style="bold red", box=box.HEAVY)
        )
    if results.invalid:
        console.print(
            Panel(
                _text(results.invalid), title="INVALID LATENCIES", style="bold red", box=box.HEAVY
            )
        )
    console.print(
        Panel(
            _text(results.verdict),
            title=_text(results.model),
            border_style=STYLES[verdict_tone(results)],
        )
    )
    for table in _result_tables(results, console):
        console.print(table)
    console.print(_text(INTERVALS_SENTENCE, "dim"), soft_wrap=True)
    _print_list(console, "Notes", [(f.label, f.value, "") for f in note_facts(results)])
    _print_list(
        console,
        "Gates",
        [
            (g.status, f"{g.backend}, {gate_name(g)}. {g.sentence}", STYLES[gate_tone(g)])
            for g in results.gates
        ],
    )
    _print_list(
        console,
        "Engines, by their own layers",
        [(f.label, f.value, "") for f in engine_facts(results)],
    )
    _print_list(console, "Not run", [(f.label, f.value, "yellow") for f in skipped_facts(results)])
    _print_list(console, "Lower precision", [("", c.sentence, "") for c in results.comparisons])
    _print_list(console, "Errors", [("", e, "bold red") for e in results.errors])
    _print_list(console, "Warnings", [("", w, "bold yellow") for w in results.warnings])
    _print_data(results, console)


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], console: Console
) -> None:
    """Print a plain table. Columns that hold only numbers are set flush right."""
    lines = [list(row) for row in rows]
    table = RichTable(
        title=_text(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for index, name in enumerate(columns):
        numeric = bool(lines) and all(_is_figure(line[index]) for line in lines)
        table.add_column(_text(name), justify="right" if numeric else "left", overflow="fold")
    for line in lines:
        table.add_row(*(_text(cell) for cell in line))
    console.print(table)


def print_audit(audit: EngineAudit, console: Console, *, by_group: bool = False) -> None:
    """Print what an engine really is; with `by_group` also by stage and role."""
    print_table(
        "Engine",
        ("", "what it is"),
        [(fact.label, fact.value) for fact in audit_facts(audit)],
        console,
    )
    if by_group:
        print_table("By stage and role", GROUP_COLUMNS, group_rows(audit), console)


def print_error(error: HvtDeployError, console: Console) -> None:
    """Print what happened and what to do about it. Long lines are left to the terminal, so that
    they can be copied.
    """
    console.print(Text.assemble(("Error: ", "bold red"), scrub(error.message)), soft_wrap=True)
    if error.hint:
        console.print(_text(error.hint), soft_wrap=True)


@contextmanager
def progress_bar(
    console: Console, description: str, *, quiet: bool = False
) -> Generator[ProgressCallback, None, None]:
    """Give a callback (done, total) that draws a bar with the time left; a total of 0 means that it
    is not known.

    In a log (no terminal, or CI is set) a plain line appears every 30 seconds at most; `quiet`
    shows nothing at all.
    """
    if quiet:
        yield _ignore
    elif console.is_terminal and not os.environ.get("CI"):
        with _open_bar(console) as bar:
            task = bar.add_task(scrub(description), total=None)

            def draw(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total or None)

            yield draw
    else:
        yield _PlainProgress(console, description)


class TerminalUi:
    """What a step says, on a console (stderr). `quiet` keeps warnings only."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet

    def say(self, message: str) -> None:
        """Tell what was done or decided."""
        if not self.quiet:
            self.console.print(_text(message), soft_wrap=True)

    def warn(self, message: str) -> None:
        """Tell what the user must not overlook."""
        self.console.print(
            Text.assemble(("Warning: ", "bold yellow"), scrub(message)), soft_wrap=True
        )

    def progress(self, description: str) -> AbstractContextManager[ProgressCallback]:
        """Show a bar while the context is open."""
        return progress_bar(self.console, description, quiet=self.quiet)


class _PlainProgress:
    """Progress for a log: one line now and then."""

    def __init__(self, console: Console, description: str) -> None:
        self.console = console
        self.description = scrub(description)
        self.started = self.printed = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.printed < SECONDS_BETWEEN_PLAIN_LINES or not 0 < done < total:
            return
        self.printed = now
        left = duration((now - self.started) * (total - done) / done)
        self.console.print(
            _text(f"{self.description}: {100 * done // total} %, about {left} left"), soft_wrap=True
        )


def _ignore(done: int, total: int) -> None:
    pass


def _open_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=console,
    )


def _result_tables(results: Results, console: Console) -> list[RenderableType]:
    """One table where it fits, otherwise accuracy and speed below each other."""
    columns = summary_columns(results)
    whole = fill_table(results, columns)
    if not whole.lines:
        return [_text("No backend was run.", "bold yellow")]
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
    rich_table.add_column("backend", overflow="fold")
    for column in table.columns:
        rich_table.add_column(
            _text(column.title.replace(" (", "\n(")), justify="right", no_wrap=True
        )
    for line in table.lines:
        rich_table.add_row(_backend(line), *(_figure(cell) for cell in line.cells))
    return rich_table


def _backend(line: Line) -> Text:
    tags = [line.row.precision, line.row.device] + (["reference"] if line.is_reference else [])
    return Text.assemble((scrub(line.row.backend), "bold"), "\n", (scrub(", ".join(tags)), "dim"))


def _figure(cell: Cell) -> Text:
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
            (scrub(label), style or "bold"), ": " if label else "", scrub(sentence)
        )
        grid.add_row(_text("•"), line if label else _text(sentence, style))
    console.print(Group(Text(), _text(title, "bold"), grid))


def _print_data(results: Results, console: Console) -> None:
    facts = {f.label: f.value for f in data_facts(results)}
    line = f"{facts['folder']}: {facts['images']}, {facts['classes']} classes. Mapping: {facts['class mapping']}"
    console.print(Group(Text(), Text.assemble(("Data: ", "bold"), scrub(line))))
    unreadable = results.data.unreadable
    if unreadable:
        names = ", ".join(unreadable[:SHOWN_UNREADABLE])
        more = (
            f" and {len(unreadable) - SHOWN_UNREADABLE:,} more"
            if len(unreadable) > SHOWN_UNREADABLE
            else ""
        )
        sentence = f"{count(len(unreadable), 'file')} could not be read and {'was' if len(unreadable) == 1 else 'were'} "
        console.print(_text(f"{sentence}left out: {names}{more}", "yellow"))


def _is_figure(text: str) -> bool:
    return bool(text) and text.strip("+-–.,%×0123456789 ") == ""


def _text(text: str, style: str = "") -> Text:
    """Text without markup: a `[red]` in a path is just that."""
    return Text(scrub(text), style=style)
