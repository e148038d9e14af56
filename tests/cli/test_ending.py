"""Signals: Ctrl-C, SIGTERM and SIGHUP clean up alike; a child ends with its parent, however that
ends; while nothing has begun there is nothing to say.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# The command line with a command more, that writes to a workspace and waits for a child.
_PROGRAM = """
import sys
from dataclasses import dataclass
from pathlib import Path
from hvt_deploy.core.worker import answer, run_in_child

@dataclass(frozen=True)
class Job:
    text: str

def work(job):
    import os, tempfile, time
    tempfile.mkdtemp()
    Path("child").write_text(str(os.getpid()))
    time.sleep(60)

if sys.argv[1:]:  # the child
    sys.exit(answer(Job, work))

from hvt_deploy.__main__ import main
from hvt_deploy.cli import app
from hvt_deploy.core.workspace import ModelFolder

@app.command("stay")
def stay():
    with ModelFolder(Path("m")).lock(), ModelFolder(Path("m")).staging() as staged:
        (staged / "half").write_text("")
        try:
            run_in_child("program", Job(""))
        except KeyboardInterrupt:
            raise {error}

sys.argv[1:] = ["stay"]
main()
"""


@pytest.fixture(autouse=True)
def no_nohup():
    """Commands see SIGHUP, even where these tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def start(folder: Path, error: str = "") -> subprocess.Popen[str]:
    """The command, whose child is at work."""
    (folder / "program.py").write_text(_PROGRAM.replace("{error}", error))
    (folder / "temporary").mkdir()
    paths = [str(folder), *os.environ.get("PYTHONPATH", "").split(":")]
    process = subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder / "temporary"), "PYTHONPATH": ":".join(paths)},
        stderr=subprocess.PIPE,
        text=True,
    )
    child = folder / "child"
    wait_for(lambda: child.is_file() and child.read_text())
    return process


def wait_for(holds) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "Interrupted."),
        (signal.SIGTERM, 143, "Terminated."),
        (signal.SIGHUP, 129, "Hung up."),
    ],
)
def test_each_signal_cleans_up_and_has_its_exit_code(tmp_path, number, code, said):
    process = start(tmp_path)
    process.send_signal(number)
    process.send_signal(signal.SIGTERM)  # a second one does not disturb
    error = process.communicate(timeout=20)[1]
    assert (process.returncode, said in error) == (code, True), error
    assert "Traceback" not in error
    assert list((tmp_path / "temporary").iterdir()) == []
    assert not list((tmp_path / "m").glob(".staging*"))
    assert not is_alive(int((tmp_path / "child").read_text()))


def test_a_library_that_makes_an_error_of_the_interrupt_changes_nothing(tmp_path):
    process = start(tmp_path, error="ImportError('a half imported library')")
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=20)[1]
    assert process.returncode == 143
    assert "half imported" not in error


def test_a_child_ends_with_a_parent_that_is_killed(tmp_path):
    process = start(tmp_path)
    child = int((tmp_path / "child").read_text())
    assert is_alive(child)
    process.kill()
    process.communicate()
    wait_for(lambda: not is_alive(child))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_the_program_is_imported_says_nothing(tmp_path, number):
    (tmp_path / "typer.py").write_text("print('imported', flush=True); import time; time.sleep(60)")
    process = subprocess.Popen(
        [sys.executable, "-m", "hvt_deploy", "doctor"],
        cwd=tmp_path,  # where that module is
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "imported\n"
    process.send_signal(number)
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 128 + number


def test_nohup_is_respected(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start(tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 143
