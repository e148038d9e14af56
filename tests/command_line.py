"""`hvt-deploy` as a user runs it: in this process, or in one of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import hvt_deploy.cli

_SHORT_TIMINGS = Path(__file__).parent / "short_timings.py"

# Stands for an environment without PyTorch and timm: importing or finding them fails.
_WITHOUT_TORCH = f"""
import importlib.util, runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "timm", "onnxsim"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
found = importlib.util.find_spec
importlib.util.find_spec = (
    lambda name, package=None: None if name in ("torch", "timm") else found(name, package)
)
sys.argv = ["hvt-deploy", *sys.argv[1:]]
runpy.run_path({str(_SHORT_TIMINGS)!r}, run_name="__main__")
"""


def run(*arguments, cwd, **environment):
    """The finished command `hvt-deploy ...`, run here: PyTorch need not be imported once more."""
    outputs = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    before = Path.cwd()
    os.chdir(cwd)
    try:
        with (
            mock.patch.dict(os.environ, _environment(cwd, environment)),
            mock.patch.object(sys, "argv", ["hvt-deploy", *map(str, arguments)]),
            redirect_stdout(outputs[0]),
            redirect_stderr(outputs[1]),
        ):
            hvt_deploy.cli.run()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        os.chdir(before)
    for output in outputs:
        output.seek(0)
    return subprocess.CompletedProcess(arguments, code, *(output.read() for output in outputs))


def run_process(*arguments, cwd, **environment):
    """The same in a process of its own; it measures latency for seconds only."""
    return _run_process([_SHORT_TIMINGS], arguments, cwd, environment)


def run_without_torch(*arguments, cwd, **environment):
    """The same in an environment without PyTorch, timm and onnxsim."""
    return _run_process(["-c", _WITHOUT_TORCH], arguments, cwd, environment)


def _run_process(program, arguments, cwd, environment):
    return subprocess.run(
        [sys.executable, *map(str, (*program, *arguments))],
        cwd=cwd,
        env={**os.environ, **_environment(cwd, environment)},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def _environment(cwd, more):
    fixed = {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cwd), "CI": "", "COLUMNS": "200"}
    return {**fixed, **more}
