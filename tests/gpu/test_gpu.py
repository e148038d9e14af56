"""The sections of `hvt-deploy doctor --verify` as tests, on a machine with an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from hvt_deploy.commands.verify_gpu import SectionReport, verify_gpu
from hvt_deploy.core.gpus import search_gpus
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.evaluation.verification.sections import DEFAULT_MODEL, SECTION_NAMES, SectionName

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu")]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Mapping[SectionName, SectionReport]:
    """All sections, run one after the other."""
    search = search_gpus()
    if not search.gpus:
        pytest.skip(f"there is no NVIDIA GPU here: {search.why_none}")
    output = tmp_path_factory.mktemp("verification")
    done = verify_gpu(SECTION_NAMES, DEFAULT_MODEL, output, SilentUi())
    return {report.section: report for report in done.sections}


@pytest.mark.parametrize("name", SECTION_NAMES)
def test_section(reports: Mapping[SectionName, SectionReport], name: SectionName) -> None:
    report = reports[name]
    if report.verdict == "cannot here":
        pytest.skip(report.problems)
    assert report.verdict == "verified", f"{report.problems}\n{report.log_end}"
