"""Versioned JSON records: read within bounds, and a version that is not known refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from hvt_deploy.core.errors import BadInput

# More than the record of any validation; of a larger file no more is read into memory.
MAX_RECORD_BYTES = 64 << 20


def read_record(path: Path, version: int, advice: str) -> Mapping[str, object]:
    """The fields of a JSON file of schema `version`; `advice` says how it is made again.

    Raises FileNotFoundError, and BadInput as `parse_fields` and `check_version`.
    """
    fields = parse_fields(read_content(path), str(path), advice)
    check_version(fields, str(path), version, advice)
    return fields


def read_content(path: Path) -> bytes:
    """The bytes of a record, or the first ones of a file that is too large to be one."""
    with path.open("rb") as stream:
        return stream.read(MAX_RECORD_BYTES + 1)


def parse_fields(content: bytes, where: str, advice: str) -> Mapping[str, object]:
    """The fields of a JSON record. Raises BadInput, naming it `where`, for what is none."""
    try:
        data = parse_json(content)
        if not isinstance(data, dict):
            raise ValueError("it is not a mapping of keys")
    except ValueError as error:
        raise BadInput(f"{where} is damaged: {error}.", advice) from None
    return cast("dict[str, object]", data)


def parse_json(content: bytes) -> object:
    """The value of a JSON text in UTF-8. Raises ValueError for what is none, is larger than any
    record or nested too deep, or has a key twice.
    """
    if len(content) > MAX_RECORD_BYTES:
        raise ValueError(f"it has more than {MAX_RECORD_BYTES >> 20} MiB")
    try:
        return cast("object", json.loads(content.decode(), object_pairs_hook=_refuse_duplicates))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def check_version(fields: Mapping[str, object], where: str, version: int, advice: str) -> None:
    """Raise BadInput unless the record's `schema_version` is `version`.

    A newer one asks for a newer hvt-deploy, for an older one there is `advice`.
    """
    found = fields.get("schema_version")
    if found == version and type(found) is int:
        return
    message = f"{where} has schema version {str(found)[:20]}; this hvt-deploy reads {version}."
    if type(found) is int and found > version:
        raise BadInput(
            f"{message} A newer hvt-deploy wrote it.",
            "Update this one: pip install --upgrade hvt-deploy",
        )
    raise BadInput(message, advice)


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for key, value in pairs:
        if key in fields:
            raise ValueError(f"the key {key[:60]!r} is there twice")
        fields[key] = value
    return fields
