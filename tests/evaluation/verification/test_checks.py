"""The verdict of checks and of a section, and the lines of the README that sections settle."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from hvt_deploy.core.errors import MissingEnvironment
from hvt_deploy.evaluation.verification.checks import Check, CheckList, expect, judge
from hvt_deploy.evaluation.verification.child import read_checks, run_section
from hvt_deploy.evaluation.verification.nvrtc_kernels import compile_kernels
from hvt_deploy.evaluation.verification.sections import (
    JETSON_ROW,
    JETSON_SECTIONS,
    SECTION_NAMES,
    SECTIONS,
    SectionJob,
    list_readme_rows,
)

README = Path(__file__).parents[3] / "README.md"


def test_a_check_that_fails_keeps_its_measurements_and_leaves_the_others(capsys) -> None:
    done: list[Check] = []
    checks = CheckList(done.append)
    with checks.check("one") as measured:
        measured["ms"] = 1.5
        expect(measured["ms"] < 1, "It is slow.")
    with checks.check("two"):
        raise MissingEnvironment("No tool.", "Install it.")
    with checks.check("three"):
        raise RuntimeError("the driver is gone")
    with checks.check("four"):
        pass
    assert done == [
        Check("one", "failed", "It is slow.", {"ms": 1.5}),
        Check("two", "cannot here", "No tool. Install it."),
        Check("three", "failed", "RuntimeError: the driver is gone"),
        Check("four", "verified"),
    ]
    assert "Traceback" in capsys.readouterr().err, "for the log of the section"


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        (("verified", "cannot here"), "verified"),
        (("verified", "failed", "cannot here"), "failed"),
        (("cannot here",), "cannot here"),
        ((), "cannot here"),
    ],
)
def test_verdict_of_a_section(verdicts, verdict) -> None:
    assert judge([Check("name", one) for one in verdicts]) == verdict


def test_section_that_cannot_start_says_why(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    report = tmp_path / "report.json"
    assert read_checks(report) == ()
    run_section(SectionJob("tensorrt", "fdvit_demo", tmp_path), report)
    (check,) = read_checks(report)
    assert (check.name, check.verdict) == ("start", "cannot here")
    assert "'tensorrt') is not installed" in check.why


def test_kernels_compile_for_every_gpu_without_one() -> None:
    assert compile_kernels("9.0").startswith(b"\x7fELF")
    assert compile_kernels("8.7") != compile_kernels("8.6")
    with pytest.raises(MissingEnvironment, match=r"does not know compute capability 6\.1"):
        compile_kernels("6.1")


def read_table(heading: str) -> dict[str, str]:
    """The first two columns of the table under a heading of the README."""
    text = README.read_text().partition(heading)[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return {cells[0].strip(): cells[1].strip() for cells in rows[2:]}


def test_the_readme_names_for_each_unverified_line_the_section_that_settles_it() -> None:
    table = read_table("### Not verified yet")
    named = {row: tuple(re.findall(r"`([a-z-]+)`", settles)) for row, settles in table.items()}
    by_sections = {SECTIONS[name].readme_row: (name,) for name in SECTION_NAMES}
    by_sections[JETSON_ROW] = JETSON_SECTIONS
    found = {row: sections for row, sections in named.items() if set(sections) & set(SECTION_NAMES)}
    assert found == by_sections
    assert all(settles for settles in table.values())


def test_lines_of_the_readme_that_a_machine_settles() -> None:
    assert list_readme_rows((), on_jetson=True) == ()
    rows = list_readme_rows(("demo", "cuda"), on_jetson=False)
    assert rows == (SECTIONS["cuda"].readme_row, SECTIONS["demo"].readme_row)
    assert JETSON_ROW in list_readme_rows(JETSON_SECTIONS, on_jetson=True)
    assert JETSON_ROW not in list_readme_rows(JETSON_SECTIONS, on_jetson=False)
    assert JETSON_ROW not in list_readme_rows(JETSON_SECTIONS[:2], on_jetson=True)


def test_onnxruntime_that_is_not_installed_has_not_failed(tmp_path, monkeypatch) -> None:
    for module in [name for name in sys.modules if name.startswith("hvt_deploy.runtime.ort")]:
        monkeypatch.delitem(sys.modules, module)
    check = "hvt_deploy.evaluation.verification.check_onnxruntime"
    monkeypatch.delitem(sys.modules, check, raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingEnvironment, match="onnxruntime"):
        SECTIONS["onnxruntime"].run(
            CheckList(lambda _: None), SectionJob("onnxruntime", "fdvit_demo", tmp_path)
        )
