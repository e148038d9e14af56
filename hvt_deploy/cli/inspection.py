"""The content of graphs and engines: inspect."""

from __future__ import annotations

from typing import Annotated

import typer

from hvt_deploy.cli.app import command
from hvt_deploy.cli.completion import complete_exported
from hvt_deploy.cli.help import epilog
from hvt_deploy.cli.options import JsonOption, WorkspaceOption
from hvt_deploy.cli.output import show_json, show_table
from hvt_deploy.core.types import DEFAULT_WORKSPACE

TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="An ONNX file, an engine, or an exported model with all it holds.",
        autocompletion=complete_exported,
    ),
]


@command(
    "inspect",
    "Judge and compare",
    epilog(
        "inspect fdvit_b",
        "inspect model.onnx",
        "inspect fdvit_b.int8.rtx-sm86.engine",
        terms=("role", "reformat", "passport"),
    ),
)
def inspect(
    target: TargetArgument,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Show the content of graphs and engines by stage and role.

    Of a graph: nodes, parameters, MACs and precision. Of an engine: its kernels, and its cost.
    """
    from hvt_deploy.commands.inspect import COLUMNS, EngineSummary, graph_rows, inspect_target
    from hvt_deploy.evaluation.report.console import open_console
    from hvt_deploy.evaluation.report.terminal import print_audit, print_costs

    found = inspect_target(workspace, target)
    if as_json:
        show_json(found)
        return
    for name, facts in found.items():
        if isinstance(facts, EngineSummary):
            typer.echo(f"{name}: {facts.flavour} {facts.version}, {facts.device}")
            print_audit(facts.audit, open_console(), by_group=True)
            print_costs(facts.precision, facts.costs, open_console())
        else:
            show_table(f"{name}, opset {facts.opset}", COLUMNS, graph_rows(facts))
