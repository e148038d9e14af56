"""A process of its own: what it raises arrives, and a crash is reported with its last lines."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import pytest

from hvt_deploy.core.errors import MissingEnvironment, ToolFailure
from hvt_deploy.core.verbosity import VERBOSE
from hvt_deploy.core.worker import DETAIL, run_in_child


@dataclass(frozen=True)
class Job:
    """The input of the child process in these tests."""

    text: str


@pytest.fixture
def child(tmp_path, monkeypatch):
    """A module whose `work(job)` has the given body, importable by a child."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(body):
        (tmp_path / "job_of_test.py").write_text(
            "import os, sys, signal\nfrom dataclasses import dataclass\nfrom pathlib import Path\n"
            "from hvt_deploy.core.worker import answer\nfrom hvt_deploy.core.errors import *\n\n"
            "@dataclass(frozen=True)\nclass Job:\n    text: str\n\n"
            f"def work(job):\n{textwrap.indent(textwrap.dedent(body), '    ')}\n\n"
            "sys.exit(answer(Job, work))\n"
        )
        return "job_of_test"

    return write


def test_the_child_gets_its_job(child, tmp_path):
    run_in_child(child("Path(job.text).write_text('done')"), Job(str(tmp_path / "file")))
    assert (tmp_path / "file").read_text() == "done"


def test_an_error_keeps_its_kind_message_and_hint(child):
    with pytest.raises(MissingEnvironment, match="no GPU for x") as raised:
        run_in_child(
            child("raise MissingEnvironment('no GPU for ' + job.text, 'buy one')"), Job("x")
        )
    assert raised.value.hint == "buy one"


def test_a_crash_is_reported_with_its_last_lines(child):
    with pytest.raises(ToolFailure, match=r"(?s)ended with 1.*ValueError: wrong x"):
        run_in_child(child("raise ValueError('wrong ' + job.text)"), Job("x"))


def test_a_killed_child_hints_at_memory(child):
    with pytest.raises(ToolFailure, match="was killed, most likely out of memory") as raised:
        run_in_child(child("os.kill(os.getpid(), signal.SIGKILL)"), Job(""))
    assert "memory" in raised.value.hint


@pytest.mark.parametrize(("verbose", "shown"), [("", ""), ("1", "a library's warning\n")])
def test_lines_of_libraries_are_shown_with_verbose_only(child, capsys, monkeypatch, verbose, shown):
    monkeypatch.setenv(VERBOSE, verbose)
    lines = f"print({DETAIL!r} + 'importing a node'); print(job.text); print('take')"
    run_in_child(child(lines), Job("a library's warning"), lambda line: line == "take\n")
    assert capsys.readouterr().err == shown
