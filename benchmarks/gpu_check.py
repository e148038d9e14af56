"""Everything that needs a GPU, by one command: python benchmarks/gpu_check.py [--out DIR] [--model
NAME].

Runs tests/gpu (PyTorch on CUDA, ONNX Runtime's CUDA provider, TensorRT and TensorRT-RTX engines
against PyTorch, in logits and latency) and `hvt-deploy demo`, and writes DIR/gpu_check.json after
every section: what was done stays if a later one fails. DIR is $OUT if that is set, else
benchmarks/results. Ends with 1 if a section failed, 3 without a GPU.
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
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeAlias
from xml.etree import ElementTree

from hvt_deploy.core.environment import cpu_name, find_gpus, tool_versions
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.evaluation.record import read_results
from hvt_deploy.runtime.tensorrt.flavours import FlavourInfo, available_flavours

Section: TypeAlias = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent


def describe_machine() -> Section:
    """GPUs, driver, libraries and versions."""
    flavours = available_flavours()
    return {
        "ok": bool(find_gpus()),
        "gpus": to_plain(find_gpus()),
        "cpu": cpu_name(),
        "system": platform.platform(),
        "versions": tool_versions(),
        "flavours": [
            f.title if isinstance(f, FlavourInfo) else f"{f.what}: {f.why}" for f in flavours
        ],
    }


def run_tests(model: str, folder: Path) -> Section:
    """tests/gpu: the outcome of every test, and what they measured."""
    junit, records = folder / "junit.xml", folder / "records.jsonl"
    records.touch()
    environment = {**os.environ, "GPU_CHECK_RECORDS": str(records), "GPU_CHECK_MODEL": model}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        f"--junitxml={junit}",
    ]
    section = run([*command, str(ROOT / "tests" / "gpu")], ROOT, environment)
    section["measured"] = [
        json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()
    ]
    if junit.is_file():
        cases = ElementTree.parse(junit).getroot().iter("testcase")
        section["tests"] = {case.get("name"): outcome(case) for case in cases}
    return section


def run_demo(folder: Path) -> Section:
    """`hvt-deploy demo` on this GPU: trained weights, real images, its own results.json."""
    section = run([sys.executable, "-m", "hvt_deploy", "demo"], folder, dict(os.environ))
    found = sorted(folder.rglob("results.json"))
    if not found:
        return {**section, "ok": False}
    results = read_results(found[-1])
    # Without the thousands of single times, which nobody reads here.
    rows = [
        replace(r, latency_ms=r.latency_ms and replace(r.latency_ms, samples_ms=()))
        for r in results.rows
    ]
    return {**section, "results": to_plain(replace(results, rows=tuple(rows)))}


def run(command: list[str], folder: Path, environment: dict[str, str]) -> Section:
    """Run a command; its exit code, time and the end of what it wrote."""
    started = time.monotonic()
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    sys.stderr.write(done.stdout)
    return {
        "ok": done.returncode == 0,
        "command": " ".join(["python", *command[1:]]),
        "exit_code": done.returncode,
        "seconds": round(time.monotonic() - started, 1),
        "output_end": done.stdout[-6000:],
    }


def outcome(case: ElementTree.Element) -> str:
    """passed, or why not."""
    for kind in ("failure", "error", "skipped"):
        found = case.find(kind)
        if found is not None:
            return f"{kind}: {found.get('message', '')[:500]}"
    return "passed"


def main() -> int:
    """Run the sections one after the other and keep what each gave."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT") or ROOT / "benchmarks" / "results")
    )
    parser.add_argument("--model", default="fdvit_b")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    target: Path = options.out / "gpu_check.json"
    report: Section = {
        "command": f"python benchmarks/gpu_check.py --model {options.model}",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with tempfile.TemporaryDirectory() as temporary:
        sections: dict[str, Callable[[], Section]] = {
            "machine": describe_machine,
            "tests": lambda: run_tests(options.model, Path(temporary)),
            "demo": lambda: run_demo(Path(temporary)),
        }
        for name, section in sections.items():
            try:
                report[name] = section()
            except Exception as error:  # one section must not take the others with it
                report[name] = {"ok": False, "error": f"{type(error).__name__}: {error}"}
            target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            if name == "machine" and not report[name].get("gpus"):
                print(f"There is no NVIDIA GPU here. Written: {target}", file=sys.stderr)
                return 3
    failed = [name for name in sections if not report[name]["ok"]]
    print(f"Written: {target}. Failed: {', '.join(failed) or 'nothing'}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
