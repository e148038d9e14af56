"""`hvt-deploy` as a user runs it, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
    """The finished command `hvt-deploy ...`; it measures latency for seconds only."""
    return _run([_SHORT_TIMINGS], arguments, cwd, environment)


def run_without_torch(*arguments, cwd, **environment):
    """The same in an environment without PyTorch, timm and onnxsim."""
    return _run(["-c", _WITHOUT_TORCH], arguments, cwd, environment)


def _run(program, arguments, cwd, environment):
    fixed = {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cwd), "CI": "", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *map(str, (*program, *arguments))],
        cwd=cwd,
        env={**os.environ, **fixed, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
