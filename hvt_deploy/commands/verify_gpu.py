"""`doctor --verify`: runs the sections of a verification, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from hvt_deploy import __version__
from hvt_deploy.core.environment import cpu_name, is_jetson, tool_versions
from hvt_deploy.core.errors import MissingEnvironment, unknown_name
from hvt_deploy.core.files import write_whole
from hvt_deploy.core.gpus import Gpu, GpuSearch, name_driver, search_gpus
from hvt_deploy.core.model_options import is_onnx_file
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.worker import child_command
from hvt_deploy.evaluation.verification.checks import Check, Verdict, judge
from hvt_deploy.evaluation.verification.child import read_checks
from hvt_deploy.evaluation.verification.sections import (
    SECTION_NAMES,
    SECTIONS,
    SectionJob,
    SectionName,
    list_readme_rows,
)
from hvt_deploy.models.registry import get_spec
from hvt_deploy.runtime.tensorrt.flavours import FlavourInfo, available_flavours

_CHILD = "hvt_deploy.evaluation.verification.child"
_LOG_CHARACTERS = 6000


@dataclass(frozen=True)
class SectionReport:
    """The result of a section."""

    section: SectionName
    """Its name."""
    verdict: Verdict
    """That of its checks together."""
    readme_row: str
    """The line of the README's table "Not verified yet" that it settles where it is verified."""
    checks: tuple[Check, ...]
    """In the order they ran."""
    seconds: float = 0.0
    """How long it ran."""
    log_end: str = ""
    """The end of what its process printed."""

    @property
    def problems(self) -> str:
        """The checks that failed or cannot be done, by their reasons."""
        by_reason: dict[str, list[str]] = {}
        for check in self.checks:
            by_reason.setdefault(check.why, []).append(check.name)
        return "\n".join(f"{'; '.join(names)}: {why}" for why, names in by_reason.items() if why)


@dataclass(frozen=True)
class Verification:
    """The results of all sections that were asked for, and the machine they ran on."""

    created: str
    """Date and time, UTC."""
    hvt_deploy: str
    """Version of this package."""
    model: str
    """Name of the model whose graphs and engines were compared, or of the file of its graph."""
    gpus: tuple[Gpu, ...]
    """In CUDA's order; the first is the one that was used."""
    why_no_gpu: str
    """Empty where there is one."""
    driver: str
    """Version of NVIDIA's driver; empty where it is not known."""
    cpu: str
    """Name of the processor."""
    system: str
    """Kernel and C library."""
    versions: Mapping[str, str]
    """Of installed packages and TensorRT libraries."""
    sections: tuple[SectionReport, ...] = ()
    """In the order they ran."""
    verified_rows: tuple[str, ...] = ()
    """The lines of the README's table "Not verified yet" that this machine settles."""

    @property
    def exit_code(self) -> int:
        """1 where a section failed, 0 where one was verified, 3 where none can run here."""
        verdicts = {report.verdict for report in self.sections}
        return 1 if "failed" in verdicts else 0 if "verified" in verdicts else 3


def parse_sections(text: str) -> tuple[SectionName, ...]:
    """Section names separated by commas, in the order they run. Raises BadInput."""
    asked = [name.strip() for name in text.split(",")]
    for name in asked:
        if name not in SECTION_NAMES:
            raise unknown_name("section", name, SECTION_NAMES)
    return tuple(name for name in SECTION_NAMES if name in asked)


def verify_gpu(
    sections: Sequence[SectionName],
    model: str,
    output: Path,
    ui: Ui,
    limit_s: float = math.inf,
) -> Verification:
    """Run the sections on `model`, a name or the file of an FP32 graph; `output` holds
    verification.json and verification.SECTION.json, written when a section ends.

    They end within `limit_s` together: each may take half of what is left, the last all of it, so
    that one that hangs leaves time for the others. Raises BadInput for an unknown model and for a
    file that is no such graph.
    """
    _check_model(model)
    started, search = time.monotonic(), search_gpus()
    output.mkdir(parents=True, exist_ok=True)
    reports: list[SectionReport] = []
    verification = _describe(search, model, reports)
    with tempfile.TemporaryDirectory(prefix="hvt-deploy-") as folder:
        for name in sections:
            left_s = max(0, limit_s - (time.monotonic() - started))
            share_s = left_s if name == sections[-1] else left_s / 2
            job = SectionJob(name, model, Path(folder))
            if search.gpus:
                report = _run(job, min(SECTIONS[name].limit_s, share_s))
            else:
                report = _skip(name, search)
            reports.append(report)
            ui.say(_summarize(report))
            verification = _describe(search, model, reports)
            _write(output / f"verification.{name}.json", report)
            _write(output / "verification.json", verification)
    return verification


def _check_model(model: str) -> None:
    if is_onnx_file(model):
        from hvt_deploy.evaluation.verification.verified_graphs import check_graph

        check_graph(Path(model))
        return
    with contextlib.suppress(MissingEnvironment):  # the sections that need it say so
        get_spec(model)


def _describe(search: GpuSearch, model: str, reports: Sequence[SectionReport]) -> Verification:
    flavours = [one for one in available_flavours() if isinstance(one, FlavourInfo)]
    verified: list[SectionName] = [one.section for one in reports if one.verdict == "verified"]
    return Verification(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        hvt_deploy=__version__,
        model=Path(model).name,
        gpus=search.gpus,
        why_no_gpu=search.why_none,
        driver=name_driver(),
        cpu=cpu_name(),
        system=platform.platform(),
        versions={**tool_versions(), **{one.name: one.version for one in flavours}},
        sections=tuple(reports),
        verified_rows=list_readme_rows(verified, on_jetson=is_jetson()),
    )


def _skip(name: SectionName, search: GpuSearch) -> SectionReport:
    check = Check("start", "cannot here", f"There is no NVIDIA GPU here: {search.why_none}.")
    return SectionReport(name, "cannot here", SECTIONS[name].readme_row, (check,))


def _run(job: SectionJob, limit_s: float) -> SectionReport:
    """Run a section in a child; one that takes too long or dies has failed."""
    started = time.monotonic()
    report, log = job.folder / f"{job.section}.json", job.folder / f"{job.section}.log"
    command = child_command(_CHILD, json.dumps(to_plain(job)), str(report))
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            ended = _describe_end(process.wait(limit_s))
        except subprocess.TimeoutExpired:
            ended = f"It was stopped after {limit_s:.3g} s."
        finally:  # its own children end with it
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    checks = read_checks(report)
    if ended:
        checks = (*checks, Check("process", "failed", ended))
    return SectionReport(
        job.section,
        judge(checks),
        SECTIONS[job.section].readme_row,
        checks,
        round(time.monotonic() - started, 1),
        log.read_text(encoding="utf-8", errors="replace")[-_LOG_CHARACTERS:],
    )


def _describe_end(exit_code: int) -> str:
    """Why a section did not end by itself; empty where it did."""
    if exit_code < 0:
        return f"It was ended by {signal.Signals(-exit_code).name}."
    return f"It ended with {exit_code}." if exit_code else ""


def _summarize(report: SectionReport) -> str:
    return f"{report.section}: {report.verdict} ({report.seconds:.0f} s) {report.problems}".rstrip()


def _write(path: Path, value: object) -> None:
    write_whole(path, json.dumps(to_plain(value), indent=1) + "\n")
