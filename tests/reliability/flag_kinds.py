"""Flags: values of the wrong type, out of range, unknown, missing or against each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import typer
from kinds import Kind
from refused_flags import COMMANDS, REFUSED

from hvt_deploy.cli import app

_NUMBER = "valid (int|float|number)"
_RANGE = "than or equal to|is not in the range"


def _list_usage() -> Iterator[Kind]:
    """What the parser refuses, for every flag of every command."""
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        start = COMMANDS.get(name, (name,))
        yield Kind("flag", f"{name}: unknown", (*start, "--no-such-flag"), "No such option")
        for option in command.params:
            flag = max(option.opts, key=len)
            if not flag.startswith("--") or flag == "--help":
                continue
            kind = str(option.type_descriptor.annotation)
            if not option.is_flag:
                yield Kind(
                    "flag", f"{name} {flag}: no value", (*start, flag), "requires an argument"
                )
            if "int'" in kind or "float'" in kind or kind == "list[int]":
                arguments = (*start, flag, "many")
                yield Kind("flag", f"{name} {flag}: no number", arguments, _NUMBER)
            if option.min is not None:
                arguments = (*start, flag, option.min - 1)
                yield Kind("flag", f"{name} {flag}: below its range", arguments, _RANGE)
            if option.max is not None:
                arguments = (*start, flag, option.max + 1)
                yield Kind("flag", f"{name} {flag}: above its range", arguments, _RANGE)
            if "Literal" in kind:
                yield Kind(
                    "flag",
                    f"{name} {flag}: unknown",
                    (*start, flag, "magic"),
                    "is not one of|Input should be .* or",
                )


def _list_kinds() -> Iterator[Kind]:
    yield from _list_usage()
    for fault, arguments, sentence in REFUSED:
        prepare = _put_link if "link" in arguments else lambda place: None
        yield Kind("flag", fault, arguments, sentence, prepare)
    for verb in ("report", "bundle"):
        arguments = (verb, "--output", "fifo")
        yield Kind("flag", f"{verb} --output: a pipe", arguments, "a device", _put_pipe)
    for name in ("export", "validate", "quantize"):
        arguments = (*COMMANDS[name], "--config", "fifo")
        yield Kind("flag", f"{name} --config: a pipe", arguments, "is not a file", _put_pipe)


def _put_pipe(place: Path) -> None:
    os.mkfifo(place / "fifo")


def _put_link(place: Path) -> None:
    (place / "link").symlink_to("link")


KINDS = tuple(_list_kinds())
