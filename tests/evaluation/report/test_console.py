"""Messages on the console are text as it is, and a log is not flooded with progress."""

from __future__ import annotations

from rich.console import Console

from hvt_deploy.core.errors import BadInput
from hvt_deploy.evaluation.report.console import TerminalUi, print_error


def recording():
    return Console(record=True, width=100, force_terminal=False)


def test_an_error_is_plain_text_with_its_hint():
    console = recording()
    print_error(BadInput("It [bold]broke[/bold].", "Mend it."), console)
    text = console.export_text()
    assert "Error: It [bold]broke[/bold]." in text
    assert "Mend it." in text


def test_quiet_keeps_warnings_only():
    console = recording()
    ui = TerminalUi(console, quiet=True)
    ui.say("done")
    ui.warn("careful")
    with ui.progress("Working") as progress:
        progress(1, 2)
    assert console.export_text().strip() == "Warning: careful"
