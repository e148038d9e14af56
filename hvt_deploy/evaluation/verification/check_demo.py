"""Section `demo`: `hvt-deploy demo` with its trained weights and real images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hvt_deploy.core.errors import MissingEnvironment
from hvt_deploy.evaluation.record import Row, read_results
from hvt_deploy.evaluation.verification.checks import CheckList, Fact, expect

_LACKS_ENVIRONMENT = 3
_SHOWN_CHARACTERS = 1500


def check_demo(checks: CheckList, folder: Path) -> None:
    """The demo ends well, and at least one of its rows ran on the GPU."""
    with checks.check("demo") as measured:
        output = folder / "demo"
        command = [sys.executable, "-m", "hvt_deploy", "demo", "--output", str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        end = (done.stdout + done.stderr)[-_SHOWN_CHARACTERS:]
        if done.returncode == _LACKS_ENVIRONMENT:
            raise MissingEnvironment(end)
        expect(done.returncode == 0, f"It ended with {done.returncode}:\n{end}")
        rows = read_results(next(output.rglob("results.json"))).rows
        for row in rows:
            _describe(row, measured)
        on_gpu = [row for row in rows if row.variant.device == "cuda" and not row.skipped]
        if not on_gpu:
            raise MissingEnvironment("No row of the demo ran on the GPU: no runtime here uses it.")


def _describe(row: Row, measured: dict[str, Fact]) -> None:
    name = f"{row.backend}, {row.variant.device}"
    if row.skipped:
        measured[name] = row.skipped
        return
    if row.accuracy is not None:
        measured[f"{name}: top1_percent"] = row.accuracy.top1.estimate
    for timing in row.timings:
        measured[f"{name}: batch {timing.latency.batch} median_ms"] = timing.latency.median
