"""What the Tab key offers: names of models, exported models, precisions. Imports no library that
takes long.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, redirect_stdout
from itertools import pairwise
from pathlib import Path

import typer

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.types import DEFAULT_WORKSPACE, PRECISIONS

_REQUEST = "_HVT_DEPLOY_COMPLETE"
_TIMM = "timm:"


def complete_exported(ctx: typer.Context, incomplete: str) -> list[str]:
    """The exported models of the workspace that is on the line already, else of the default one."""
    workspace = Path(ctx.params.get("workspace") or DEFAULT_WORKSPACE)
    return _matching((file.parent.name for file in workspace.glob("*/manifest.json")), incomplete)


def complete_models(incomplete: str) -> list[str]:
    """The models with a name; those of timm where `timm:` was typed."""
    if incomplete.startswith(_TIMM):
        return _matching((f"{_TIMM}{name}" for name in _find_timm_names()), incomplete)
    from hvt_deploy.models.registry import list_specs

    return _matching([*(spec.name for spec in list_specs()), _TIMM], incomplete)


def complete_models_list(incomplete: str) -> list[str]:
    """The last of several models, separated by commas."""
    before, _, last = incomplete.rpartition(",")
    return [f"{before},{name}" if before else name for name in complete_models(last)]


def complete_precisions(incomplete: str) -> list[str]:
    """The last of several precisions, separated by commas."""
    before, _, last = incomplete.rpartition(",")
    return [f"{before},{name}" if before else name for name in _matching(PRECISIONS, last)]


def complete_words(words: Iterable[str]) -> Callable[[str], list[str]]:
    """A completion by fixed words."""
    known = tuple(words)

    def complete(incomplete: str) -> list[str]:
        return _matching(known, incomplete)

    return complete


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))


def _find_timm_names() -> set[str]:
    """Timm's architectures, read from its source: importing it takes seconds."""
    spec = importlib.util.find_spec("timm")
    names: set[str] = set()
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in Path(folder).glob("models/*.py"):
            text = file.read_text(encoding="utf-8")
            names.update(re.findall(r"^@register_model\s+def (\w+)\(", text, re.MULTILINE))
    return names


@contextmanager
def bash_completes_colons() -> Generator[None]:
    """While bash asks for completions: `timm:NAME` is one word.

    Bash takes `timm`, `:` and `NAME` for three, and replaces only the last.
    """
    if os.environ.get(_REQUEST) != "complete_bash":
        yield
        return
    words, place = os.environ.get("COMP_WORDS", "").split("\n"), os.environ.get("COMP_CWORD", "")
    if not place.isdecimal() or not 0 <= (at := int(place)) < len(words):
        raise BadInput(
            "The shell did not say which word to complete.",
            "Write its script again: hvt-deploy --install-completion",
        )
    joined = _join_words(words[: at + 1])
    os.environ.update(COMP_WORDS="\n".join(joined), COMP_CWORD=str(len(joined) - 1))
    kept = 0 if words[at] in (":", "=") else len(words[at])
    before = joined[-1][: len(joined[-1]) - kept]
    found = io.StringIO()
    try:
        with redirect_stdout(found):
            yield
    finally:
        typer.echo("\n".join(c.removeprefix(before) for c in found.getvalue().splitlines()))


def _join_words(words: list[str]) -> list[str]:
    """The words of a command line, those that bash cut at a colon or an equals sign as one."""
    joined = words[:1]
    for before, word in pairwise(words):
        if len(joined) > 1 and word and (word in ":=" or before in (":", "=")):
            joined[-1] += word
        else:
            joined.append(word)
    return joined
