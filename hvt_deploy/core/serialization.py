"""Frozen dataclasses to and from plain JSON/YAML values; wrong keys and types are named."""

from __future__ import annotations

import dataclasses
import reprlib
import types
import typing
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.types import Between

T = TypeVar("T")
# A value in a message, of bounded length and depth.
_show = reprlib.Repr()
_show.maxstring = _show.maxother = _show.maxlong = 60


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

    Raises BadInput for an unknown or missing key and for a value of the wrong type or out of range.
    """
    return cast("T", _convert(cls, data, where or cls.__name__))


def _dataclass_from(cls: type, data: object, where: str) -> object:
    if not isinstance(data, Mapping):
        raise BadInput(f"{where}: expected a mapping of keys, got {_show.repr(data)}.")
    values = cast("Mapping[str, object]", data)
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in values:
        if key not in fields:
            raise BadInput(
                f"{where}: unknown key {_show.repr(key)}.", f"Known keys: {', '.join(fields)}."
            )
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
    if origin is Annotated:
        return _convert_within(args, data, where)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, data, where)
    if origin is typing.Literal:
        if data not in args:
            raise BadInput(
                f"{where}: expected one of {', '.join(map(str, args))}, got {_show.repr(data)}."
            )
        return data
    if dataclasses.is_dataclass(hint):
        return _dataclass_from(cast("type", hint), data, where)
    if origin in (tuple, list):
        return _convert_sequence(origin, args, data, where)
    if origin in (dict, Mapping) or (origin is not None and issubclass(origin, Mapping)):
        if not isinstance(data, Mapping):
            raise BadInput(f"{where}: expected a mapping of keys, got {_show.repr(data)}.")
        items = cast("Mapping[str, object]", data).items()
        return {k: _convert(args[1], v, f"{where}.{k}") for k, v in items}
    return _convert_scalar(hint, data, where)


def _convert_within(args: tuple[Any, ...], data: object, where: str) -> object:
    """A value of type `args[0]` in the ranges that follow."""
    value = _convert(args[0], data, where)
    for limits in args[1:]:
        if isinstance(limits, Between):
            is_list = isinstance(value, Sized)
            number = len(value) if is_list else cast("float", value)
            if not limits.low <= number <= limits.high:  # NaN is in no range
                shown = f"{limits.low:.12g} to {limits.high:.12g}{' values' if is_list else ''}"
                raise BadInput(f"{where}: expected {shown}, got {_show.repr(number)}.")
    return value


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
    names = ", ".join(getattr(option, "__name__", str(option)) for option in options)
    raise BadInput(f"{where}: {_show.repr(data)} is none of {names}.")


def _convert_sequence(origin: type, args: tuple[Any, ...], data: object, where: str) -> object:
    if not isinstance(data, (list, tuple)):
        raise BadInput(f"{where}: expected a list, got {_show.repr(data)}.")
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
        raise BadInput(f"{where}: expected {hint.__name__}, got {_show.repr(data)}.")
    return data
