"""The records and tables that benchmarks write, and the product's commands that they measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from hvt_deploy.core.environment import cpu_name, tool_versions

# JSON as it is written and read.
Record: TypeAlias = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
_ERROR_CHARACTERS = 2000


def run_hvt_deploy(folder: Path, *arguments: str) -> Any:  # noqa: ANN401 - the JSON that a command prints
    """The JSON that `hvt-deploy ARGUMENTS --json` prints, run in `folder`.

    Raises CalledProcessError with the end of its messages.
    """
    command = [sys.executable, "-m", "hvt_deploy", *arguments, "--json"]
    environment = {**os.environ, "CI": ""}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        message = done.stderr[-_ERROR_CHARACTERS:]
        print(message, file=sys.stderr)
        raise subprocess.CalledProcessError(done.returncode, command, stderr=message)
    return json.loads(done.stdout)


def describe_commit() -> str:
    """The commit that is checked out, marked where files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def describe_conditions(script: str) -> Record:
    """The conditions of a measurement: command, CPU, versions."""
    return {
        "command": f"python benchmarks/{script}",
        "cpu": cpu_name(),
        "versions": tool_versions(),
    }


def read_rows(path: Path, key: str) -> dict[str, Record]:
    """The records in the list `key` of a JSON file, by model; none where there is no file."""
    if not path.is_file():
        return {}
    rows: list[Record] = json.loads(path.read_text(encoding="utf-8"))[key]
    return {row["model"]: row for row in rows}


def update_models(
    path: Path,
    models: Sequence[str],
    order: Iterable[str],
    measure: Callable[[str], Record],
    *,
    again: bool = False,
) -> Iterator[dict[str, Record]]:
    """Measure the `models` whose record in `path` is of another commit, or all of them `again`.

    Gives all records, in `order`, after each measurement.
    """
    records = read_rows(path, "models")
    commit = describe_commit().removesuffix("-dirty")  # writing results makes the tree dirty
    for model in models:
        if again or records.get(model, {}).get("commit") != commit:
            print(model, file=sys.stderr, flush=True)
            records[model] = {**measure(model), "commit": commit}
            names = dict.fromkeys((*order, *records))
            records = {name: records[name] for name in names if name in records}
            yield records


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as JSON; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def format_table(heads: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> list[str]:
    """The lines of a Markdown table; `align` is its second line where columns are not all left."""
    lines = [f"| {' | '.join(heads)} |", align or "|" + "---|" * len(heads)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]
