"""The process of a section: `python -m hvt_deploy.evaluation.verification.child JOB REPORT`.

REPORT is written after every check: where the process is stopped or dies, those before are there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.evaluation.verification.checks import Check, CheckList
from hvt_deploy.evaluation.verification.sections import SECTIONS, SectionJob


def run_section(job: SectionJob, report: Path) -> None:
    """Run the checks of a section in this process, and write them to `report`."""
    done: list[Check] = []

    def keep(check: Check) -> None:
        done.append(check)
        print(f"{check.name}: {check.verdict} {check.why}", file=sys.stderr, flush=True)  # noqa: T201
        report.write_text(json.dumps(to_plain(done)), encoding="utf-8")

    checks = CheckList(keep)
    try:
        SECTIONS[job.section].run(checks, job)
    except Exception as error:
        checks.fail("start", error, {})


def read_checks(report: Path) -> tuple[Check, ...]:
    """The checks that a section has written; none where it ended before the first."""
    if not report.is_file():
        return ()
    return from_plain(
        tuple[Check, ...], json.loads(report.read_text(encoding="utf-8")), str(report)
    )


if __name__ == "__main__":
    run_section(from_plain(SectionJob, json.loads(sys.argv[1]), "the job"), Path(sys.argv[2]))
