"""A process of its own: what it raises arrives, and a crash is reported with its last lines."""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from hvt_deploy.core.errors import MissingEnvironment, ToolFailure
from hvt_deploy.core.verbosity import VERBOSE
from hvt_deploy.core.worker import DETAIL, TimeUp, run_in_child


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


def test_an_error_arrives_where_no_file_can_be_written(child):
    """Also behind a line of native code that has no end."""
    body = """
        Path(os.environ["TMPDIR"]).rename(job.text)
        os.write(1, b"half a line")
        raise MissingEnvironment("The disk is full.")
    """
    with pytest.raises(MissingEnvironment, match="The disk is full"):
        run_in_child(child(body), Job(str(Path(os.environ["PYTHONPATH"]) / "moved")))


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


def test_a_child_that_takes_too_long_is_ended_with_its_own_children(child, tmp_path):
    body = """
    import subprocess
    print("begun", flush=True)
    grandchild = subprocess.Popen(["sleep", "600"])
    Path(job.text).write_text(str(grandchild.pid))
    grandchild.wait()
    """
    with pytest.raises(TimeUp, match="more than 2 seconds") as raised:
        run_in_child(child(body), Job(str(tmp_path / "pid")), limit_s=2)
    assert "begun" in raised.value.log
    grandchild = int((tmp_path / "pid").read_text())
    status = Path(f"/proc/{grandchild}/status")
    assert not status.exists() or "Z (zombie)" in status.read_text()
