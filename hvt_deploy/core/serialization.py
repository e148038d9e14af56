"""Frozen dataclasses to and from plain JSON/YAML values; wrong keys and types are named."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from hvt_deploy.core.errors import BadInput

T = TypeVar("T")


def to_plain(value: object) -> Any:  # noqa: ANN401 - a JSON value has no closer type
    """Dataclasses, tuples, mappings and paths as values that `json` and `yaml` write."""
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {str(k): to_plain(v) for k, v in items}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in cast("list[object]", value)]
    return value


def from_plain(cls: type[T], data: object, where: str = "") -> T:
    """Build the dataclass `cls` from plain values; `where` names the place in error messages.

    Raises BadInput for an unknown or missing key and for a value of the wrong type.
    """
    return cast("T", _convert(cls, data, where or cls.__name__))


def _dataclass_from(cls: type, data: object, where: str) -> object:
    if not isinstance(data, Mapping):
        raise BadInput(f"{where}: expected a mapping of keys, got {data!r}.")
    values = cast("Mapping[str, object]", data)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in values:
        if key not in fields:
            raise BadInput(f"{where}: unknown key '{key}'.", f"Known keys: {', '.join(fields)}.")
    missing = [
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise BadInput(f"{where}: missing key {', '.join(repr(m) for m in missing)}.")
    return cls(**{k: _convert(hints[k], v, f"{where}.{k}") for k, v in values.items()})


def _convert(hint: Any, data: object, where: str) -> object:  # noqa: ANN401 - type hints are values here
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return data
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, data, where)
    if origin is typing.Literal:
        if data not in args:
            raise BadInput(f"{where}: expected one of {', '.join(map(str, args))}, got {data!r}.")
        return data
    if dataclasses.is_dataclass(hint):
        return _dataclass_from(cast("type", hint), data, where)
    if origin in (tuple, list):
        return _convert_sequence(origin, args, data, where)
    if origin in (dict, Mapping) or (origin is not None and issubclass(origin, Mapping)):
        if not isinstance(data, Mapping):
            raise BadInput(f"{where}: expected a mapping of keys, got {data!r}.")
        items = cast("Mapping[str, object]", data).items()
        return {k: _convert(args[1], v, f"{where}.{k}") for k, v in items}
    return _convert_scalar(hint, data, where)


def _convert_union(args: tuple[Any, ...], data: object, where: str) -> object:
    if data is None and type(None) in args:
        return None
    options = [a for a in args if a is not type(None)]
    if len(options) == 1:
        return _convert(options[0], data, where)
    for option in options:
        try:
            return _convert(option, data, where)
        except BadInput:
            continue
    raise BadInput(f"{where}: {data!r} is none of {', '.join(map(str, options))}.")


def _convert_sequence(origin: type, args: tuple[Any, ...], data: object, where: str) -> object:
    if not isinstance(data, (list, tuple)):
        raise BadInput(f"{where}: expected a list, got {data!r}.")
    values = cast("list[object]", data)
    if origin is list or (len(args) == 2 and args[1] is Ellipsis):
        converted = [_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(values)]
        return converted if origin is list else tuple(converted)
    if len(values) != len(args):
        raise BadInput(f"{where}: expected {len(args)} values, got {len(values)}.")
    return tuple(
        _convert(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, values, strict=True))
    )


def _convert_scalar(hint: Any, data: object, where: str) -> object:  # noqa: ANN401
    if hint is Path and isinstance(data, str):
        return Path(data)
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if (isinstance(data, bool) and hint is not bool) or not isinstance(data, hint):
        raise BadInput(f"{where}: expected {hint.__name__}, got {data!r}.")
    return data
