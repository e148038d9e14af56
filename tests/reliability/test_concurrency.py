"""Two to six commands at once on one model: each works or says who holds the model, and the model
is whole afterwards.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from place import MODEL, QUANTIZE, write_images

from hvt_deploy.core.workspace import ModelFolder

_PROGRAM = Path(__file__).parent.parent / "short_timings.py"
_COMMANDS = (
    (*QUANTIZE, "--seed", 1),
    (*QUANTIZE, "--seed", 2),
    ("export", "hvt_demo", "--class-names", "names.txt"),
    ("validate", "--data", "validation", "--limit", 10),
    ("bundle",),
    ("predict", "validation/0"),
    ("inspect", "hvt_demo"),
    ("package", "--triton", "triton"),
)


def start(command, place):
    return subprocess.Popen(
        [sys.executable, str(_PROGRAM), *map(str, command)],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(place), "CI": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3, 4, 5, 6])
def test_commands_at_once(number, tmp_path, exported):
    write_images(tmp_path)
    folder: ModelFolder = exported(tmp_path / "artifacts", "hvt_demo")
    (tmp_path / "names.txt").write_text("\n".join(f"class {i}" for i in range(10)))
    chosen = random.Random(number).sample(_COMMANDS, number)
    running = [(command, start(command, tmp_path)) for command in chosen]
    for command, process in running:
        said = process.communicate(timeout=250)[1]
        assert "Traceback" not in said
        if process.returncode:
            assert process.returncode in (2, 3), (command, said)
            assert "is in use by process" in said or "was exported again" in said, (command, said)
    manifest = folder.read()
    for artifact in manifest.artifacts.values():
        folder.check_files(artifact)
    with folder.lock():
        assert not list((tmp_path / MODEL).glob(".staging*"))
    assert start(("predict", "validation/0"), tmp_path).wait() == 0
