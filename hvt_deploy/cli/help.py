"""What `--help` prints: usage, arguments, options with their defaults, examples, terms.

Plain text of at most 80 columns, which needs no import of rich.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from typer.core import TyperCommand, TyperGroup

from hvt_deploy.evaluation.report.terms import define_terms


def choices(literal: object) -> str:
    """The values of a `Literal` as the name of an option's value: "fp32|fp16"."""
    return "|".join(map(str, get_args(literal)))


def epilog(*examples: str, terms: Iterable[str] = ()) -> str:
    """The end of a `--help`: examples to copy, one a line, then the definitions of terms."""
    lines = "\n".join(f"  hvt-deploy {example}".rstrip() for example in examples)
    defined = [
        f"{name}: {text.replace('`', '')}" for name, text in define_terms(tuple(terms)).items()
    ]
    # The mark \b keeps the lines of a paragraph as they are.
    return "\n\n".join([f"\b\nExamples:\n{lines}", *(["Terms:"] if defined else []), *defined])


class HelpedCommand(TyperCommand):
    """A command whose help names each value and each default."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        """Refuse an empty value, such as of a shell's variable without one: as a path it is `.`."""
        for number, given in enumerate(args):
            if not ctx.resilient_parsing and (not given or re.fullmatch("--[a-z0-9-]+=", given)):
                before = given or "".join(args[:number][-1:])
                where = f" with {before}" if before else ""
                ctx.fail(f"An empty value was given{where}. Is a variable not set?")
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ANN401
        """The arguments as they are typed: MODEL, or [MODEL] where it may be left out."""
        return [self.options_metavar or "", *map(_show_argument, _arguments(self.params))]

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Write the tables of arguments and options."""
        _write_parameters(self.get_params(ctx), formatter)


class HelpedGroup(TyperGroup):
    """The program itself: its commands in groups by what they are for."""

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Write the tables of options and of commands."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            panel = str(getattr(command, "rich_help_panel", None) or "Commands")
            groups.setdefault(panel, []).append((name, command.get_short_help_str(200)))
        width = max(len(name) for name in self.commands)
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows])
        _write_parameters(self.get_params(ctx), formatter)


def describe_parameter(param: Any) -> tuple[str, str]:  # noqa: ANN401
    """A parameter as a row of the help: how it is typed, and its help with its default."""
    if param.param_type_name == "argument":
        typed = param.metavar or param.name.upper()
    else:
        typed = ", ".join(sorted(param.opts, key=len))
        typed = " / ".join([typed, *param.secondary_opts])
        if not param.is_flag:
            typed += f" {param.metavar or '?'}"
    default = _describe_default(param)
    return typed, f"{param.help or ''}{f'  [default: {default}]' if default else ''}"


def _describe_default(param: Any) -> str:  # noqa: ANN401
    if isinstance(param.show_default, str):
        return param.show_default
    if param.default is True and param.secondary_opts:
        return "on"
    if param.default in (None, False) or param.required:
        return ""
    return str(param.default)


def _write_parameters(params: Iterable[Any], formatter: Any) -> None:  # noqa: ANN401
    shown = [param for param in params if not getattr(param, "hidden", False)]
    arguments = _arguments(shown)
    tables: Mapping[str, list[Any]] = {
        "Arguments": arguments,
        "Options": [param for param in shown if param not in arguments],
    }
    for title, rows in tables.items():
        if rows:
            with formatter.section(title):
                formatter.write_dl([describe_parameter(param) for param in rows])


def _arguments(params: Iterable[Any]) -> list[Any]:
    return [param for param in params if param.param_type_name == "argument"]


def _show_argument(param: Any) -> str:  # noqa: ANN401
    name = describe_parameter(param)[0]
    return name if param.required else f"[{name}]"
