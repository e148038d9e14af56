"""Real `quantize` runs, each ended by a signal at another moment with a `bundle` next to it: the
model stays usable, and nothing is left behind.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from command_line import run_process

from hvt_deploy.data.digits import write_digits

_QUANTIZE = ("quantize", "--int8", "--calib", "digits/calibration", "--calib-images")
_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGKILL: -9}
_ROUNDS = 24
# What libraries write there also where nothing is interrupted.
_OF_LIBRARIES = {".ses", "torchinductor_root"}


def start(*arguments, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", "hvt_deploy", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(cwd / "tmp"), "CI": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_model_stays_usable_whenever_a_quantize_is_ended(tmp_path):
    (tmp_path / "tmp").mkdir()
    image = next(write_digits(tmp_path / "digits").validation.rglob("*.png"))
    assert run_process("export", "hvt_demo", cwd=tmp_path).returncode == 0
    began = time.monotonic()
    assert start(*_QUANTIZE, 64, cwd=tmp_path).wait() == 0
    whole_s, moments, ended = time.monotonic() - began, random.Random(0), 0
    for number in range(_ROUNDS):
        sent = list(_CODES)[number % len(_CODES)]
        process = start(*_QUANTIZE, 65 + number, cwd=tmp_path)
        beside = start("bundle", "--output", "beside.tar", cwd=tmp_path)
        time.sleep(moments.uniform(0.4, whole_s))
        process.send_signal(sent)
        said = process.communicate()[1]
        problem = beside.communicate()[1]
        assert beside.returncode == 0, problem
        assert process.returncode in (0, _CODES[sent]), said
        assert "Traceback" not in said
        ended += process.returncode != 0
        if sent != signal.SIGKILL:
            assert not {entry.name for entry in (tmp_path / "tmp").iterdir()} - _OF_LIBRARIES
            assert not list(tmp_path.glob("artifacts/hvt_demo/.staging*"))
        shutil.rmtree(tmp_path / "tmp")
        (tmp_path / "tmp").mkdir()
        for command in (("predict", image, "--backend", "ort int8 cpu"), ("bundle",)):
            done = run_process(*command, cwd=tmp_path)
            assert done.returncode == 0, (sent, done.stderr)
    assert ended > _ROUNDS / 2, "most of them were ended in time"
