"""The command of NVIDIA's own benchmark that measures an engine as it is timed here.

trtexec (and `tensorrt_rtx`, that of TensorRT-RTX) keeps one inference waiting on the stream, so its
"GPU Compute Time" has no launch gap: it is to be compared with launches back to back.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from hvt_deploy.core.tensors import Signature
from hvt_deploy.runtime.tensorrt.flavours import FlavourInfo

# TensorRT 11 and TensorRT-RTX have these on by default (its migration guide; trtexec --help).
_FLAGS_BEFORE_11 = ("--useCudaGraph", "--useSpinWait", "--noDataTransfers")


def write_trtexec_command(
    engine: Path,
    signature: Signature,
    batch: int,
    flavour: FlavourInfo,
    *,
    profile: int = 0,
    ordinal: int = 0,
    cuda_graph: bool = True,
) -> str:
    """The command for `batch` images in an optimization profile of the engine, on the GPU of this
    number.
    """
    is_rtx = flavour.name == "tensorrt_rtx"
    words = ["tensorrt_rtx" if is_rtx else "trtexec", f"--loadEngine={engine}"]
    if signature.batch is None:
        shape = "x".join(map(str, signature.images_shape(batch)))
        words.append(f"--shapes={signature.input_name}:{shape}")
    words += [f"--useProfile={profile}"] if profile else []
    words += [f"--device={ordinal}"] if ordinal else []
    if not is_rtx and int(flavour.version.partition(".")[0]) < 11:
        words += [flag for flag in _FLAGS_BEFORE_11 if cuda_graph or flag != "--useCudaGraph"]
    elif not is_rtx and not cuda_graph:
        words.append("--noCudaGraph")
    return shlex.join(words)
