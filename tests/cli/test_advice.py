"""Advice in messages names commands and flags that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer.main

import hvt_deploy
from hvt_deploy import cli

COMMANDS = typer.main.get_command(cli.app)
FLAGS = {
    name: {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)} | {"--help"}
    for name, command in COMMANDS.commands.items()
}
EVERYWHERE = {flag for p in COMMANDS.params for flag in p.opts}
# Of other programs.
FOREIGN = {
    "--query-gpu", "--gpu-architecture", "--duration", "--system-site-packages", "--load",
    "--shapes", "--use", "--lock-gpu-clocks", "--upgrade", "--tool", "--no", "--leak-check",
    "--error-exitcode",
}  # fmt: skip


def texts():
    """The texts in the code but docstrings, with X for each inserted value."""
    for path in sorted(Path(hvt_deploy.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text())
        skipped = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                skipped |= {id(inner) for inner in ast.walk(node) if inner is not node}
                parts = (v.value if isinstance(v, ast.Constant) else "X" for v in node.values)
                yield path.name, "".join(parts)
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and id(node) not in skipped
            ):
                yield path.name, node.value


def find_wrong(text):
    """Flags in a text that no command has, or not the command they are given to."""
    known = EVERYWHERE | FOREIGN | set().union(*FLAGS.values())
    for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text):
        if flag not in known:
            yield flag
    for verb, rest in re.findall(r"hvt-deploy ([a-z-]+)((?: [^\s.,;:)`]+)*)", text):
        for flag in re.findall(r"(?<!\S)--[a-z][a-z0-9-]+", rest):
            if verb in FLAGS and flag not in FLAGS[verb] | EVERYWHERE:
                yield f"{verb} {flag}"


def test_every_flag_in_a_message_is_one_of_the_command_that_it_names():
    found = list(texts())
    assert sum("--" in text for _, text in found) > 100
    assert [(name, wrong) for name, text in found for wrong in find_wrong(text)] == []


@pytest.mark.parametrize("text", ["Run: hvt-deploy inspect --int8", "Give --no-such-flag."])
def test_a_wrong_flag_is_found(text):
    assert list(find_wrong(text))
