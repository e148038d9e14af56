"""`--help` explains every option with its default, at 80 columns, and commands stay small."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer.main
from command_line import run

from hvt_deploy import cli
from hvt_deploy.cli.help import describe_parameter
from hvt_deploy.commands.config import config_of
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.evaluation.report.terms import TERMS

MAX_COMMAND_LINES = 25
GROUP = typer.main.get_command(cli.app)
COMMANDS = GROUP.commands
PARAMETERS = [(name, p) for name, command in COMMANDS.items() for p in command.params]
# Flags whose default is the configuration's, by its key.
CONFIGURED = {
    "export": {
        "opset": "export.opset",
        "weights": "export.weights",
        "seed": "export.seed",
        "simplifier": "export.simplifier",
    },
    "quantize": {
        "calib": "calibration.folder",
        "calib_images": "calibration.images",
        "seed": "calibration.seed",
        "calibrator": "quantization.calibrator",
        "flavour": "engine.flavour",
    },
    "build-trt": {
        "precision": "engine.precision",
        "calib": "calibration.folder",
        "calib_images": "calibration.images",
        "flavour": "engine.flavour",
    },
    "validate": {
        "seed": "validation.seed",
        "batch_size": "validation.batch_size",
        "device": "validation.device",
        "margin": "validation.margin",
    },
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_and_each_option_does_with_an_example(name):
    command = COMMANDS[name]
    assert command.help
    assert [p.name for p in command.params if not (p.help or "").strip()] == []
    assert f"hvt-deploy {name}" in command.epilog


def test_every_value_has_a_name_and_a_default():
    values = [(name, p) for name, p in PARAMETERS if not getattr(p, "is_flag", False)]
    assert len(values) > 80
    assert [f"{name} {p.name}" for name, p in values if not p.metavar] == []
    silent = [
        f"{name} {p.name}"
        for name, p in values
        if not p.required and "[default: " not in describe_parameter(p)[1]
    ]
    assert silent == []


def test_the_default_in_a_help_is_the_one_of_the_configuration():
    plain = to_plain(config_of("fdvit_b"))
    for name, keys in CONFIGURED.items():
        parameters = {p.name: p for p in COMMANDS[name].params}
        for flag, key in keys.items():
            section, setting = key.split(".")
            default = str(plain[section][setting])
            assert (
                describe_parameter(parameters[flag])[1]
                .partition("[default: ")[2]
                .startswith(default)
            ), (name, flag)


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_a_help_fits_80_columns_and_can_be_copied_from(name, tmp_path):
    done = run(*name.split(), "--help", cwd=tmp_path, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    odd = re.compile(r"<(bool|str|int|path|list)|hvt-$|--[\w-]+-$|`|\*\*")
    assert [line for line in lines if odd.search(line)] == []
    if name:
        assert "--quiet" in done.stdout
        assert "--verbose" in done.stdout


def test_quiet_and_verbose_exclude_each_other(tmp_path):
    done = run("models", "--quiet", "--verbose", cwd=tmp_path)
    assert done.returncode == 2
    assert "exclude each other" in done.stderr


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
        assert TERMS[term].replace("`", "") in COMMANDS[name].epilog


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
