"""The commands of README's table of what is verified that are tests: python
benchmarks/readme_claims.py [--commands 'docker*'].

Each `pytest`, `make` and `docker/check.sh` of a row is run from the repository's root, and its
outcome kept with the commit, after each one: an interrupted run goes on where it was, commands of
this commit are not run again. `readme_claims.md` is the table. Ends with 1 if a command failed.
Hours for all; what needs Docker's tools needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.records import (
    RESULTS,
    ROOT,
    Record,
    describe_commit,
    describe_conditions,
    format_table,
    write_record,
)

RECORD = RESULTS / "readme_claims.json"
RUNNERS = ("pytest ", "make ", "docker/check.sh")
COUNTED = ("passed", "failed", "skipped", "deselected", "error", "errors")


def list_commands() -> Iterator[str]:
    """The commands of README's table that are tests, in its order, each once."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("## What is verified")[2].partition("### Not verified yet")[0]
    rows = [row.split(" | ") for row in table.splitlines() if row.startswith("| ")]
    found = (command for row in rows[1:] for command in re.findall(r"`([^`]*)`", row[1]))
    yield from dict.fromkeys(command for command in found if command.startswith(RUNNERS))


def run_command(command: str) -> Record:
    """The outcome of a command: exit code, counts of tests, seconds."""
    words = command.split()
    if words[0] == "pytest":
        slow = [] if "-m" in words else ["-m", "not slow"]
        words = [sys.executable, "-m", "pytest", "-q", *slow, *words[1:]]
    if words[0] == "docker/check.sh":
        os.environ["PYTHON"] = sys.executable
    started = time.monotonic()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    last = (done.stdout.strip().splitlines() or [""])[-1]
    counts = {kind: int(n) for n, kind in re.findall(r"(\d+) (\w+)", last) if kind in COUNTED}
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
    return {"exit_code": done.returncode, **counts, "seconds": round(time.monotonic() - started)}


def write_results(records: dict[str, Record]) -> None:
    """Write the record and its table, commands in README's order; others are forgotten."""
    known = [command for command in list_commands() if command in records]
    rows = [records[command] for command in known]
    write_record(RECORD, {**describe_conditions("readme_claims.py"), "rows": rows})
    cells = [
        (
            f"`{row['command']}`",
            "passed" if row["exit_code"] == 0 else f"**exit code {row['exit_code']}**",
            str(row.get("passed", "")),
            str(row["seconds"]),
            row["commit"],
        )
        for row in rows
    ]
    table = format_table(("command", "outcome", "tests passed", "seconds", "commit"), cells)
    text = "\n".join(["# README's claims that tests show", "", (__doc__ or "").strip(), "", *table])
    RECORD.with_suffix(".md").write_text(text + "\n", encoding="utf-8")


def main() -> int:
    """Run the commands that are asked for and not done at this commit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commands", default="*", help="a pattern of the commands to run")
    pattern, failed = parser.parse_args().commands, False
    records: dict[str, Record] = {}
    if RECORD.is_file():
        kept: list[Record] = json.loads(RECORD.read_text(encoding="utf-8"))["rows"]
        records = {row["command"]: row for row in kept}
    here = describe_commit().removesuffix("-dirty")  # writing results makes the tree dirty
    for command in [command for command in list_commands() if fnmatch(command, pattern)]:
        before = records.get(command, {})
        if before.get("commit") != here or before.get("exit_code") != 0:
            print(command, file=sys.stderr, flush=True)
            date = datetime.now(timezone.utc).isoformat(timespec="seconds")
            records[command] = {
                "command": command,
                **run_command(command),
                "commit": here,
                "date": date,
            }
            write_results(records)
        failed |= records[command]["exit_code"] != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
