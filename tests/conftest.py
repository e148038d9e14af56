"""Being here puts this folder on the path: tests share the modules beside this file."""

from __future__ import annotations

import os

import pytest

_unwanted: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember what was skipped for another reason than a missing GPU."""
    if report.skipped and "gpu" not in report.keywords and not hasattr(report, "wasxfail"):
        _unwanted.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI everything that needs no GPU has to run: a skip there would hide what nobody checks."""
    if os.environ.get("CI", "").lower() == "true" and _unwanted:
        print(f"\nSkipped without the gpu marker: {', '.join(_unwanted)}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
