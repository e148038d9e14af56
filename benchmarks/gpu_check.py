"""Everything that needs a GPU, by one command: python benchmarks/gpu_check.py [--out DIR] [--model
NAME] [--sections NAMES].

Sections, cheapest first: the machine; parts of tests/gpu (NVML, PyTorch, ONNX Runtime's CUDA
provider, TensorRT-RTX and TensorRT engines against PyTorch, latency); `hvt-deploy demo`. Each has a
time limit and writes DIR/gpu_check.SECTION.json when it ends, with its verdict: verified, failed,
or cannot here (a library or a kind of GPU is missing). DIR/gpu_check.json holds them all. DIR is
$OUT if that is set, else benchmarks/results. Ends with 1 if a section failed, 3 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.records import RESULTS, ROOT, Record, write_record
from hvt_deploy.core.environment import cpu_name, tool_versions
from hvt_deploy.core.gpus import find_gpus
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.evaluation.record import read_results
from hvt_deploy.runtime.tensorrt.flavours import FlavourInfo, available_flavours

Verdict = Literal["verified", "failed", "cannot here"]
_OUTPUT_CHARACTERS = 6000


@dataclass(frozen=True)
class TestSection:
    """A part of tests/gpu.

    Attributes:
        selection: pytest's -k expression.
        limit_s: the most time that it may take.
    """

    selection: str
    limit_s: int


TEST_SECTIONS: Mapping[str, TestSection] = {
    "nvml": TestSection("nvml", 120),
    "pytorch": TestSection("pytorch", 600),
    "onnxruntime": TestSection("onnxruntime", 600),
    "tensorrt-rtx": TestSection("rtx and not latency", 600),
    "tensorrt": TestSection("tensorrt and not latency", 1200),
    "latency": TestSection("latency", 1200),
}
DEMO_LIMIT_S = 1200


def describe_machine() -> Record:
    """GPUs, driver, libraries and versions."""
    flavours = available_flavours()
    gpus = find_gpus()
    return {
        "verdict": "verified" if gpus else "cannot here",
        "gpus": to_plain(gpus),
        "cpu": cpu_name(),
        "system": platform.platform(),
        "versions": tool_versions(),
        "flavours": [
            f.title if isinstance(f, FlavourInfo) else f"{f.what}: {f.why}" for f in flavours
        ],
    }


def run_tests(section: TestSection, model: str, folder: Path) -> Record:
    """A part of tests/gpu: the outcome of every test, and the measurements."""
    junit, records = folder / "junit.xml", folder / "records.jsonl"
    junit.unlink(missing_ok=True)
    records.write_text("", encoding="utf-8")
    environment = {**os.environ, "GPU_CHECK_RECORDS": str(records), "GPU_CHECK_MODEL": model}
    options = ["-q", "-m", "gpu", "-k", section.selection, "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, f"--junitxml={junit}"]
    record = run_command(
        [*command, str(ROOT / "tests" / "gpu")], ROOT, environment, section.limit_s
    )
    record["measured"] = [
        json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()
    ]
    cases = ElementTree.parse(junit).getroot().iter("testcase") if junit.is_file() else ()
    record["tests"] = {case.get("name"): read_outcome(case) for case in cases}
    outcomes = list(record["tests"].values())
    if record["verdict"] == "verified" and "passed" not in outcomes:
        record["verdict"] = "cannot here"
    return record


def run_demo(folder: Path) -> Record:
    """`hvt-deploy demo` on this GPU: trained weights, real images, its own results.json."""
    command = [sys.executable, "-m", "hvt_deploy", "demo"]
    record = run_command(command, folder, dict(os.environ), DEMO_LIMIT_S)
    found = sorted(folder.rglob("results.json"))
    if not found:
        return {**record, "verdict": "failed"}
    results = read_results(found[-1])
    # Without the thousands of single times, which nobody reads here.
    rows = [
        replace(
            row,
            timings=tuple(
                replace(timing, latency=replace(timing.latency, samples_ms=()))
                for timing in row.timings
            ),
        )
        for row in results.rows
    ]
    return {**record, "results": to_plain(replace(results, rows=tuple(rows)))}


def run_command(
    command: list[str], folder: Path, environment: Mapping[str, str], limit_s: int
) -> Record:
    """Run a command; its verdict, exit code, time and the end of its output."""
    started = time.monotonic()
    output = folder / f".gpu_check.{os.getpid()}.log"
    with output.open("w+", encoding="utf-8", errors="replace") as log:
        try:
            exit_code = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=limit_s,
            ).returncode
        except subprocess.TimeoutExpired:
            exit_code = None
    text = output.read_text(encoding="utf-8", errors="replace")
    output.unlink()
    sys.stderr.write(text)
    verdict: Verdict = "verified" if exit_code == 0 else "failed"
    return {
        "verdict": verdict,
        "command": " ".join(["python", *command[1:]]),
        "exit_code": "time limit" if exit_code is None else exit_code,
        "seconds": round(time.monotonic() - started, 1),
        "output_end": text[-_OUTPUT_CHARACTERS:],
    }


def read_outcome(case: ElementTree.Element) -> str:
    """passed, or the reason why not."""
    for kind in ("failure", "error", "skipped"):
        found = case.find(kind)
        if found is not None:
            return f"{kind}: {found.get('message', '')[:500]}"
    return "passed"


def check_sections(sections: Mapping[str, Callable[[], Record]], out: Path, report: Record) -> None:
    """Run the sections one after the other and write the record of each; ends without a GPU."""
    for name, section in sections.items():
        try:
            report[name] = section()
        except Exception as error:  # one section must not take the others with it
            report[name] = {"verdict": "failed", "error": f"{type(error).__name__}: {error}"}
        print(f"{name}: {report[name]['verdict']}", file=sys.stderr, flush=True)
        write_record(out / f"gpu_check.{name}.json", report[name])
        write_record(out / "gpu_check.json", report)
        if name == "machine" and not report[name].get("gpus"):
            return


def main() -> int:
    """Run the sections that are asked for."""
    names = ("machine", *TEST_SECTIONS, "demo")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or RESULTS))
    parser.add_argument("--model", default="fdvit_b")
    parser.add_argument("--sections", default=",".join(names), help="separated by commas")
    options = parser.parse_args()
    asked = {"machine", *options.sections.split(",")}
    if unknown := asked - set(names):
        parser.error(f"no section is called {', '.join(sorted(unknown))}")
    report: Record = {
        "command": f"python benchmarks/gpu_check.py --model {options.model}",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sections: dict[str, Callable[[], Record]] = {"machine": describe_machine}
        for name, section in TEST_SECTIONS.items():
            sections[name] = partial(run_tests, section, options.model, folder)
        sections["demo"] = partial(run_demo, folder)
        check_sections({n: s for n, s in sections.items() if n in asked}, options.out, report)
    target = options.out / "gpu_check.json"
    if not report["machine"].get("gpus"):
        print(f"There is no NVIDIA GPU here. Written: {target}", file=sys.stderr)
        return 3
    failed = [name for name in names if report.get(name, {}).get("verdict") == "failed"]
    print(f"Written: {target}. Failed: {', '.join(failed) or 'nothing'}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
