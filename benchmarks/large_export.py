"""Memory and time of exporting the largest models: python benchmarks/large_export.py [--models A,B]
[--output FILE].

Each model is exported as a user would, with random weights. Of the command and every process it
starts the resident memory is read from /proc ten times a second: `anonymous` is what the process
holds itself, `resident` has the pages of mapped files in it too, which the kernel takes back when
it needs memory. Needs Linux, 20 GiB of memory and three times the weights on disk. FILE.md is the
table. Rows of other models stay in FILE.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.records import RESULTS, Record, format_table, read_rows, write_record
from hvt_deploy.core.environment import cpu_count, cpu_name, tool_versions
from hvt_deploy.runtime.inference_job import INFERENCE_MODULE

COLUMNS = (
    "model",
    "parameters",
    "ONNX GB",
    "nodes",
    "parity",
    "export GB",
    "PyTorch GB",
    "ORT GB",
    "minutes",
)


def measure_export(name: str) -> Record:
    """Export `name` into a temporary folder: the record that it printed, and its memory peaks."""
    with tempfile.TemporaryDirectory() as temporary:
        flags = f"--weights random --opset 17 --workspace {temporary} --json"
        command = [sys.executable, "-m", "hvt_deploy", "export", name, *flags.split()]
        started = time.monotonic()
        answer = Path(temporary) / "answer.json"
        with answer.open("w", encoding="utf-8") as stream:
            process = subprocess.Popen(command, stdout=stream)
        peaks, together = watch_memory(process)
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}.")
        row: Record = {"model": name, "seconds": round(time.monotonic() - started, 1)}
        row |= json.loads(answer.read_text(encoding="utf-8"))
        folder = Path(row.pop("path")).parent
        row["files_bytes"] = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        manifest = json.loads((folder.parent / "manifest.json").read_text(encoding="utf-8"))
        reference = manifest["artifacts"]["pytorch"]
        row["reference_bytes"] = (
            (folder.parent / reference["folder"] / reference["main"]).stat().st_size
        )
    row["peak_gb"] = peaks
    row["peak_together_gb"] = together
    row["measured"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return row


def watch_memory(process: subprocess.Popen[bytes]) -> tuple[Record, Record]:
    """The peaks of each process by its role, and of all together, until `process` ends."""
    peaks: Record = {}
    together = {"anonymous": 0.0, "resident": 0.0}
    while process.poll() is None:
        total = {"anonymous": 0.0, "resident": 0.0}
        for role, pid in list_processes(process.pid):
            for kind, value in read_memory_gb(pid).items():
                total[kind] += value
                peak = peaks.setdefault(role, {"anonymous": 0.0, "resident": 0.0})
                peak[kind] = max(peak[kind], round(value, 2))
        together = {kind: max(together[kind], round(value, 2)) for kind, value in total.items()}
        time.sleep(0.1)
    return peaks, together


def list_processes(parent: int) -> list[tuple[str, int]]:
    """The export itself and the processes that it started: the first of these runs PyTorch, the
    second ONNX Runtime.
    """
    found = [("export", parent)]
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if (
                int(stat.rpartition(")")[2].split()[1]) != parent
                or INFERENCE_MODULE.encode() not in command
            ):
                continue
            job = json.loads(Path(os.fsdecode(command[3])).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # it has just ended
        found.append((job["request"]["runtime"], int(folder.name)))
    return found


def read_memory_gb(pid: int) -> dict[str, float]:
    """Resident memory of a process now, in 10^9 bytes; nothing if it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return {}
    names = {"RssAnon": "anonymous", "VmRSS": "resident"}
    pairs = (line.split(":") for line in text.splitlines() if ":" in line)
    return {names[key]: int(value.split()[0]) * 1024 / 1e9 for key, value in pairs if key in names}


def format_results(record: Record) -> str:
    """The rows as Markdown, newest conditions above them."""
    machine = record["machine"]
    lines = [
        "# Export of the largest models",
        "",
        "Written by `python benchmarks/large_export.py`.",
        "",
        f"{machine['cpu']}, {machine['cpus']} processors, {machine['memory_gb']:.1f} GB of memory; "
        f"torch {record['tools']['torch']}, onnxruntime {record['tools'].get('onnxruntime', '-')}.",
        "",
        "GB are the peaks of memory that a process holds itself / "
        "with the pages of the mapped weights file.",
        "",
    ]
    rows: list[list[str]] = []
    for row in record["rows"]:
        peaks = row["peak_gb"]
        memory = [
            f"{peaks[k]['anonymous']:.1f} / {peaks[k]['resident']:.1f}"
            for k in ("export", "pytorch", "ort")
        ]
        cells = [
            row["model"],
            f"{row['reference_bytes'] / 4e6:.0f} M",
            f"{sum(row['files_bytes'].values()) / 1e9:.2f}",
            str(row["nodes"]),
            f"{row['parity']['relative_to_largest']:.1e}",
            *memory,
            f"{row['seconds'] / 60:.1f}",
        ]
        rows.append(cells)
    return "\n".join([*lines, *format_table(COLUMNS, rows)]) + "\n"


def read_total_memory_gb() -> float:
    """The machine's memory, in 10^9 bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def main() -> None:
    """Measure what was asked for, one after the other, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="faster_vit_5_224,faster_vit_6_224")
    parser.add_argument("--output", type=Path, default=RESULTS / "large_export.json")
    arguments = parser.parse_args()
    rows = read_rows(arguments.output, "rows")
    for name in arguments.models.split(","):
        rows[name] = measure_export(name)
        machine = {"cpu": cpu_name(), "cpus": cpu_count(), "memory_gb": read_total_memory_gb()}
        record: Record = {"machine": machine, "tools": tool_versions()}
        record["rows"] = [rows[name] for name in sorted(rows)]
        write_record(arguments.output, record)
        arguments.output.with_suffix(".md").write_text(format_results(record), encoding="utf-8")


if __name__ == "__main__":
    main()
