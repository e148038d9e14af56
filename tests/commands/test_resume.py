"""A validation that was killed goes on where it was, and gives the numbers of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from command_line import _SHORT_TIMINGS, run_process

from hvt_deploy.data.digits import write_digits

VALIDATE = ("validate", "--data", "digits/validation")


def numbers(folder):
    """Accuracy and fidelity of every row of the newest validation, and its manifest's keys."""
    artifacts = json.loads((folder / "manifest.json").read_text())["artifacts"]
    record = json.loads((folder / artifacts["results"]["folder"] / "results.json").read_text())
    rows = {row["backend"]: (row["accuracy"], row["fidelity"]) for row in record["rows"]}
    return rows, {key for key in artifacts if key.startswith("results")}


@pytest.mark.slow
def test_a_killed_validation_goes_on_and_gives_the_same_numbers_to_the_last_bit(tmp_path):
    write_digits(tmp_path / "digits")
    assert run_process("export", "hvt_demo", cwd=tmp_path).returncode == 0
    assert run_process(*VALIDATE, cwd=tmp_path).returncode == 0
    folder = tmp_path / "artifacts/hvt_demo"
    whole, _ = numbers(folder)
    with subprocess.Popen(
        [sys.executable, str(_SHORT_TIMINGS), *VALIDATE],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as killed:
        while killed.poll() is None and not list(folder.glob(".answers-*/*/[0-9]*.npz")):
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    done = run_process(*VALIDATE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Going on with an interrupted validation: 256 of 500 images" in done.stdout + done.stderr
    again, kept = numbers(folder)
    assert again == whole
    assert kept == {"results", "results-1"}
    assert not list(folder.glob(".answers*"))
