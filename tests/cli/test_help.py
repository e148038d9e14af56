"""`--help` explains every option, and commands stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from hvt_deploy import cli
from hvt_deploy.evaluation.report.terms import TERMS

MAX_COMMAND_LINES = 25
COMMANDS = typer.main.get_command(cli.app).commands


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_and_each_option_does(name):
    command = COMMANDS[name]
    assert command.help
    assert [p.name for p in command.params if not (p.help or "").strip()] == []


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("validate", ("SQNR", "engine numerics", "agreement")),
        ("diagnose", ("local error",)),
        ("build-trt", ("passport",)),
    ],
)
def test_help_defines_the_terms_that_the_output_uses(name, terms):
    for term in terms:
        assert TERMS[term] in COMMANDS[name].epilog


def test_wildcards_of_an_example_are_shown():
    shown = CliRunner().invoke(cli.app, ["sweep", "--help"]).stdout
    assert "--models 'fdvit_*,faster_vit_0*'" in shown


def test_flags_of_a_dataclass_arrive_with_their_names_and_defaults():
    flags = {p.name: p for p in COMMANDS["validate"].params}
    assert flags["workspace"].opts == ["--workspace"]
    assert str(flags["data"].default) == "imagenet/val"
    assert flags["max_top1_drop"].opts == ["--max-top1-drop"]
    assert flags["max_top1_drop"].default is None


def test_functions_of_the_command_line_are_short():
    longer = [
        f"{path.name} {node.name}"
        for path in Path(cli.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= MAX_COMMAND_LINES
    ]
    assert longer == []
