"""The campaign of reliability: python benchmarks/reliability.py [--kills N] [--choices N]
[--output FILE].

Every kind of bad input in `tests/reliability/table.py`, in a process of its own: exit code,
message, what was lost or left behind, processor time and memory. Every verb, ended at each step
that changes the disk, then run again. Real runs, killed at any moment and run again. Two to six
commands at once. Half an hour of one core. What was tried is kept next to the output until the end,
so an interrupted campaign goes on where it was, unless the product or the campaign was changed.
Ends with 1 unless all is clean.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TypeAlias

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.records import (
    RESULTS,
    ROOT,
    Record,
    describe_conditions,
    write_record,
)

_TESTS = ROOT / "tests"
_NAMES = (
    "import json, table, crash_points as c, real_runs as r; "
    "print(json.dumps([table.CHANNELS, table.MOST_MIB_OF, list(c.VERBS), list(r.KILLED)]))"
)
_AT_ONCE = range(2, 7)
# What is tried: rows of the last commit that changed it are kept.
_TRIED = ("hvt_deploy", "tests")
# A request to tests/reliability/program.py, and with its record.
_Request: TypeAlias = tuple[object, ...]
_Tried: TypeAlias = tuple[_Request, Record]


def main() -> int:
    """Try everything, and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=2, help="of each real run")
    parser.add_argument("--choices", type=int, default=1, help="of each number of commands at once")
    parser.add_argument("--output", type=Path, default=RESULTS / "reliability.json")
    options = parser.parse_args()
    paths = os.pathsep.join(map(str, (_TESTS / "reliability", _TESTS, ROOT)))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CI": ""}
    named = subprocess.run(
        [sys.executable, "-c", _NAMES], env=environment, capture_output=True, text=True, check=True
    )
    channels, bounds_mib, verbs, killed = json.loads(named.stdout)
    requests: list[_Request] = [("kind", kind) for kinds in channels.values() for kind in kinds]
    requests += [("verb", verb, 1) for verb in verbs]
    requests += [("kills", verb, options.kills) for verb in killed]
    requests += [("at once", n, seed) for seed in range(options.choices) for n in _AT_ONCE]
    journal = options.output.with_suffix(".part.jsonl")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    tried = list(_try_all(requests, journal, environment))
    records = {what: [r for asked, r in tried if asked[0] == what] for what, *_ in requests}
    by_name = {record["kind"]: record for record in records["kind"]}
    command = f"reliability.py --kills {options.kills} --choices {options.choices}"
    record = {
        **describe_conditions(command),
        "commit": _describe_tried(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu_minutes": round(sum(record["spent_cpu_s"] for _, record in tried) / 60, 1),
        "bad_input": {
            channel: {
                **_sum_up([by_name[name] for name in names]),
                "bound_mib": bounds_mib[channel],
            }
            for channel, names in channels.items()
        },
        "crash_points": records["verb"],
        "kills": records["kills"],
        "at_once": records["at once"],
    }
    write_record(options.output, record)
    journal.unlink()
    faults = [record for _, record in tried if record["faults"]]
    print(json.dumps(faults, indent=1))
    return 1 if faults else 0


def _try_all(
    requests: Sequence[_Request], journal: Path, environment: dict[str, str]
) -> Iterator[_Tried]:
    """Each request with its record: of the journal, where it is of this commit, or asked for."""
    commit = _describe_tried()
    lines = journal.read_text().splitlines() if journal.is_file() else []
    kept = [json.loads(line) for line in lines if line.endswith("}")]
    known = {tuple(line["request"]): line["record"] for line in kept if line["commit"] == commit}
    with tempfile.TemporaryDirectory() as folder, journal.open("a") as stream:
        program = [sys.executable, str(_TESTS / "reliability" / "program.py")]
        with subprocess.Popen(
            [*program, folder, f"{folder}/exports"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            for request in requests:
                record = known.get(request) or _ask(process, request)
                if request not in known:
                    line = {"commit": commit, "request": request, "record": record}
                    stream.write(json.dumps(line) + "\n")
                    stream.flush()
                yield request, record
            process.communicate()


def _describe_tried() -> str:
    """The last commit that changed the product or the campaign, marked where files differ."""
    commands = (
        ("log", "-1", "--format=%h", "--abbrev=12", "--", *_TRIED),
        ("status", "--porcelain", "--", *_TRIED),
    )
    commit, changed = (
        subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True)
        for command in commands
    )
    return commit.stdout.strip() + ("-dirty" if changed.stdout else "")


def _ask(process: subprocess.Popen[str], request: _Request) -> Record:
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
