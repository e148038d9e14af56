"""NVIDIA's own benchmark of an engine, `trtexec`, as a second clock."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

from hvt_deploy.core.errors import MissingEnvironment
from hvt_deploy.evaluation.verification.checks import expect

_FOLDER = Path("/usr/src/tensorrt/bin")
_LIMIT_S = 60


def time_with_trtexec(command: str) -> float:
    """The median of the GPU compute time of `command`, by `write_trtexec_command`, in ms.

    Raises MissingEnvironment where it is not installed, CheckFailed where it fails.
    """
    name, *arguments = shlex.split(command)
    tool = shutil.which(name) or shutil.which(name, path=str(_FOLDER))
    if tool is None:
        raise MissingEnvironment(f"{name} is not on the PATH.", "It is part of TensorRT.")
    run = [tool, *arguments, "--duration=3"]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    output = done.stdout + done.stderr
    found = re.search(r"GPU Compute Time:.*?median = ([\d.]+) ms", output)
    expect(
        done.returncode == 0 and found is not None,
        f"`{shlex.join(run)}` ended with {done.returncode}:\n{output[-1000:]}",
    )
    return float(found[1]) if found else 0.0
