"""NVIDIA's own benchmark of an engine, `trtexec`, as a second clock."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from hvt_deploy.core.errors import MissingEnvironment
from hvt_deploy.core.tensors import Signature
from hvt_deploy.evaluation.verification.checks import expect
from hvt_deploy.runtime.tensorrt.flavours import FlavourInfo

_FOLDER = Path("/usr/src/tensorrt/bin")
_LIMIT_S = 60
# Since TensorRT 11 these are the defaults.
_FLAGS_BEFORE_11 = ("--useCudaGraph", "--useSpinWait", "--noDataTransfers")


def time_with_trtexec(
    engine: Path, signature: Signature, batch: int, flavour: FlavourInfo
) -> float:
    """The median of trtexec's GPU compute time of `batch` images, in ms.

    Raises MissingEnvironment where it is not installed, CheckFailed where it fails.
    """
    tool = shutil.which("trtexec") or shutil.which("trtexec", path=str(_FOLDER))
    if tool is None:
        raise MissingEnvironment("trtexec is not on the PATH.", "It is part of TensorRT.")
    shape = "x".join(map(str, signature.images_shape(batch)))
    flags = _FLAGS_BEFORE_11 if int(flavour.version.split(".")[0]) < 11 else ()
    command = [tool, f"--loadEngine={engine}", f"--shapes={signature.input_name}:{shape}", *flags]
    done = subprocess.run(
        [*command, "--duration=3"], capture_output=True, text=True, check=False, timeout=_LIMIT_S
    )
    output = done.stdout + done.stderr
    found = re.search(r"GPU Compute Time:.*?median = ([\d.]+) ms", output)
    expect(
        done.returncode == 0 and found is not None,
        f"`{' '.join(command)}` ended with {done.returncode}:\n{output[-1000:]}",
    )
    return float(found[1]) if found else 0.0
