"""Where a run may compute: `--device auto`, `cpu`, `cuda` or `cuda:1`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.gpus import Gpu, search_gpus


@dataclass(frozen=True)
class DeviceChoice:
    """Devices that a run may use."""

    kind: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: each runtime on the GPU where it can use one, else on the CPU. `cuda`: on the GPU or
    not at all."""
    ordinal: int = 0
    """Which GPU, in CUDA's order."""

    def find_gpu(self) -> Gpu | None:
        """The GPU of this choice; None for the CPU, and for `auto` where there is none.

        Raises MissingEnvironment where a GPU was asked for that CUDA does not see.
        """
        search = search_gpus()
        if self.kind == "cpu":
            return None
        if self.ordinal < len(search.gpus):
            return search.gpus[self.ordinal]
        if self.kind == "auto":
            return None
        reason = search.why_none or f"CUDA sees {len(search.gpus)}"
        raise MissingEnvironment(
            f"There is no GPU cuda:{self.ordinal} here: {reason}.",
            "`hvt-deploy doctor` lists the GPUs; --device auto takes what is there.",
        )


def parse_device(text: str) -> DeviceChoice:
    """Read `auto`, `cpu`, `cuda` or `cuda:N`. Raises BadInput for anything else."""
    kind, _, ordinal = text.partition(":")
    if text in ("auto", "cpu"):
        return DeviceChoice("auto" if text == "auto" else "cpu")
    if text == "cuda" or (
        kind == "cuda" and ordinal.isascii() and ordinal.isdigit() and len(ordinal) < 5
    ):
        return DeviceChoice("cuda", int(ordinal or 0))
    raise BadInput(f"Unknown device '{text}'.", "Known: auto, cpu, cuda, cuda:N.")
