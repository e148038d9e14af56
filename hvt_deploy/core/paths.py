"""Paths and names that a program gives, checked: a wrong one is BadInput that names its option."""

from __future__ import annotations

import os
from pathlib import Path
from typing import overload

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.types import StrPath


@overload
def as_text(option: str, value: None) -> None: ...
@overload
def as_text(option: str, value: StrPath) -> str: ...
def as_text(option: str, value: StrPath | None) -> str | None:
    """A path or a name as text. Raises BadInput for what is neither."""
    if value is None:
        return None
    try:
        text = os.fspath(value)
    except TypeError:
        text = b""
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - a caller's value
        raise BadInput(f"{option} is {value!r:.80}.", "Give a str or a pathlib.Path.")
    return text


@overload
def as_path(option: str, value: None) -> None: ...
@overload
def as_path(option: str, value: StrPath) -> Path: ...
def as_path(option: str, value: StrPath | None) -> Path | None:
    """A path. Raises BadInput as `as_text` does."""
    text = as_text(option, value)
    return None if text is None else Path(text)
