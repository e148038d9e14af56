"""Works on pretended machines, each in a fork of this process: test_pretended_machines.py runs it.

Standard input lists the machines; what was found is written to the file that each names.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import gpu_standins
import matplotlib.pyplot  # noqa: F401 - imported once for all machines
import onnxruntime  # noqa: F401
import pytest
from command_line import run
from short_timings import measure_shortly
from stub_libcuda import Stub

from hvt_deploy.commands import doctor, verify_gpu
from hvt_deploy.core.gpus import find_gpus
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.evaluation import timing
from hvt_deploy.evaluation.verification import bound_timing
from hvt_deploy.evaluation.verification.check_device import check_nvml
from hvt_deploy.evaluation.verification.check_engines import check_engines
from hvt_deploy.evaluation.verification.checks import Check, CheckList, judge

timing.measure_latency = partial(measure_shortly, budget_s=0.2)
bound_timing.measure_latency = lambda bound, batch, **_: measure_shortly(bound, batch, budget_s=0.2)
probe_in_child = doctor.probe_in_child


def probe(part):
    # The stand-in of TensorRT is in this process only.
    if part == "cuda":
        return probe_in_child(part)
    return doctor.ProbeResult(part != "tensorrt_rtx", "stands in")


doctor.probe_in_child = probe


def run_section(job, limit_s):
    """Of the sections the first alone, in this process and without PyTorch."""
    checks = []
    if job.section == "device":
        check_nvml(CheckList(checks.append))
    else:
        checks.append(Check("start", "cannot here", "It is left out."))
    return verify_gpu.SectionReport(job.section, judge(checks), "", tuple(checks))


verify_gpu._run = run_section


class Results:
    """The outcome of each GPU test, and why it was skipped or failed."""

    def __init__(self):
        self.found = {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.skipped:
            why = report.longrepr[2] if report.skipped else report.longreprtext
            self.found[report.nodeid.partition("[")[2].rstrip("]")] = report.outcome, why


def run_gpu_tests(folder):
    results, before = Results(), Path.cwd()
    os.chdir(os.environ["TESTS"])
    options = ["-q", "-p", "no:cacheprovider", "--noconftest", "--basetemp", str(folder / "tmp")]
    pytest.main([*options, "gpu"], [results])
    os.chdir(before)
    return results.found


def check_graph(folder):
    """Section `tensorrt` on a graph that was exported elsewhere."""
    checks, (graph,) = [], Path("artifacts").rglob("*.fp32.onnx")
    (folder / "verified").mkdir()
    check_engines(CheckList(checks.append), "tensorrt", str(graph), folder / "verified")
    return checks


def work(machine):
    answers = {}
    for line in machine["commands"]:
        done = run(*line.split(), "--json", cwd=Path.cwd())
        answers[line.split()[0]] = (
            done.returncode,
            done.stdout[done.stdout.find("{") :],
            done.stderr,
        )
    checks = []
    if find_gpus():
        check_nvml(CheckList(checks.append))
    found = {"answers": answers, "device": to_plain(checks), "left": Stub().live()}
    found["engines"] = to_plain(check_graph(Path.cwd()) if machine["verifies"] else [])
    found["torch"] = "torch" in sys.modules
    found["gpu_tests"] = run_gpu_tests(Path.cwd())
    Path(machine["answers"]).write_text(json.dumps(found))


for machine in json.loads(sys.stdin.read()):
    child = os.fork()  # nothing has loaded libcuda yet
    if child == 0:
        os.environ.update(machine["environment"])
        os.chdir(machine["folder"])
        gpu_standins.install()
        work(machine)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, machine
