"""The campaign of reliability: python benchmarks/reliability.py [--every N] [--output FILE].

Every kind of bad input in `tests/reliability/table.py`, in a process of its own: exit code,
message, what was lost or left behind, processor time and memory. Every verb, ended hard before each
step that changes the disk (with `--every N` each N-th), then run again. Ends with 1 unless all is
clean.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.records import (
    RESULTS,
    ROOT,
    Record,
    describe_commit,
    describe_conditions,
    write_record,
)

_TESTS = ROOT / "tests"
_NAMES = "import json, table, crash_points as c; print(json.dumps([table.CHANNELS, list(c.VERBS)]))"


def main() -> int:
    """Try everything, and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, default=1, help="distance of the steps that are tried")
    parser.add_argument("--output", type=Path, default=RESULTS / "reliability.json")
    options = parser.parse_args()
    paths = os.pathsep.join(map(str, (_TESTS / "reliability", _TESTS, ROOT)))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CI": ""}
    named = subprocess.run(
        [sys.executable, "-c", _NAMES], env=environment, capture_output=True, text=True, check=True
    )
    groups, verbs = json.loads(named.stdout)
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, str(_TESTS / "reliability" / "program.py")]
        with subprocess.Popen(
            [*program, folder, f"{folder}/exports"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            tried = {
                group: [_ask(process, "kind", name) for name in groups[group]] for group in groups
            }
            ended = [_ask(process, "verb", verb, options.every) for verb in verbs]
            process.communicate()
    record = {
        **describe_conditions(" ".join(["reliability.py", *sys.argv[1:]])),
        "commit": describe_commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bad_input": {group: _sum_up(records) for group, records in tried.items()},
        "crash_points": ended,
    }
    write_record(options.output, record)
    faults = [one for records in (*tried.values(), ended) for one in records if one["faults"]]
    print(json.dumps(faults, indent=1))
    return 1 if faults else 0


def _ask(process: subprocess.Popen[str], *request: object) -> Record:
    _stream(process.stdin).write(json.dumps(request) + "\n")
    _stream(process.stdin).flush()
    return json.loads(_stream(process.stdout).readline())


def _stream(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise ValueError("The process was started without pipes.")
    return stream


def _sum_up(records: list[Record]) -> Record:
    return {
        "kinds": len(records),
        "clean": sum(not record["faults"] for record in records),
        "exit_codes": dict(Counter(str(record["code"]) for record in records)),
        "most_cpu_s": max(record["cpu_s"] for record in records),
        "most_mib": max(record["peak_mib"] for record in records),
        "not_clean": {r["kind"]: r["faults"] for r in records if r["faults"]},
    }


if __name__ == "__main__":
    sys.exit(main())
