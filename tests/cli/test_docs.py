"""README and CONTRIBUTING name commands, flags and files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from hvt_deploy import cli

ROOT = Path(__file__).parent.parent.parent
PROGRAM = typer.main.get_command(cli.app)
COMMANDS = PROGRAM.commands
PACKAGES = "core|data|graph|models|runtime|evaluation|commands|cli"


def flags_of(command):
    return {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)}


def test_the_commands_of_the_readme_and_their_flags_exist():
    text = (ROOT / "README.md").read_text()
    named = re.findall(r"^ +hvt-deploy (.*?)(?: #.*)?$|`hvt-deploy ([^`]*)`", text, re.MULTILINE)
    lines = [indented or quoted for indented, quoted in named]
    assert len(lines) > 15
    for line in lines:
        flags = {word for word in line.split() if word.startswith("--")}
        program_alone = line.startswith("--")
        assert flags <= flags_of(PROGRAM if program_alone else COMMANDS[line.split()[0]]), line


def test_flags_that_the_readme_names_by_themselves_exist():
    text = (ROOT / "README.md").read_text()
    known = set.union(*map(flags_of, (PROGRAM, *COMMANDS.values())))
    quoted = re.findall(r"`(--[^`]*)`", text)
    assert {word for code in quoted for word in re.findall(r"--[a-z0-9-]+", code)} <= known


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_files_that_the_documents_name_exist(document):
    text = (ROOT / document).read_text()
    paths = re.findall(r"\b((?:tests|benchmarks|docker)/[\w./-]*\w)", text)
    paths += [f"hvt_deploy/{p}" for p in re.findall(rf"`((?:{PACKAGES})/[\w./]*\w)`", text)]
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
