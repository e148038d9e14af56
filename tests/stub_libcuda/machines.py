"""Pretended machines: their GPUs as libcuda and as nvidia-smi name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stub_libcuda import pretend_gpus

_H100 = "NVIDIA H100 80GB HBM3;9.0;81079;0000:19:00.0;0a1b0000000000000000000000000100"
_L4 = "NVIDIA L4;8.9;22478;0000:03:00.0;0a1b0000000000000000000000000200"
_ORIN = "Orin;8.7;7620;0000:00:00.0;0a1b0000000000000000000000000300"
_MIG = "NVIDIA H100 80GB HBM3 MIG 1g.10gb;9.0;9728;0000:19:00.0;0a1b0000000000000000000000000101"


@dataclass(frozen=True)
class PretendedMachine:
    """Attributes:
    devices: as libcuda.c takes them, in CUDA's order.
    driver: what nvidia-smi prints for the driver's version.
    environment: of the processes on this machine.
    nvidia_smi: the script.
    """

    devices: tuple[str, ...]
    driver: str = "580.65.06"
    environment: Mapping[str, str] = field(default_factory=dict)
    nvidia_smi: str = "#!/bin/sh\necho '{driver}'\n"

    def start(self, folder: Path) -> dict[str, str]:
        """The environment of a child process on this machine."""
        environment = pretend_gpus(folder, self.devices, **self.environment)
        tool = folder / "nvidia-smi"
        tool.write_text(self.nvidia_smi.format(driver=self.driver))
        tool.chmod(0o755)
        return {**environment, "PATH": f"{folder}:{environment['PATH']}"}


_NO_NVML = {"STUB_NVML_LACKS": "nvmlInitWithFlags=12"}

MACHINES = {
    "H100": PretendedMachine((_H100,)),
    "L4": PretendedMachine((_L4,), environment={"STUB_NVML_LACKS": "nvmlDeviceGetPowerUsage=3"}),
    # JetPack 6: no clocks from NVML, "N/A" from nvidia-smi.
    "Orin in a container": PretendedMachine(
        (_ORIN,), "[N/A]", {**_NO_NVML, "STUB_CUDA_VERSION": "12060"}
    ),
    "H200": PretendedMachine((_H100.replace("H100 80GB HBM3", "H200"),)),
    "two mixed cards": PretendedMachine((_H100, _L4)),
    "the second of two": PretendedMachine((_H100, _L4), environment={"CUDA_VISIBLE_DEVICES": "1"}),
    "MIG": PretendedMachine((_MIG,)),
    "driver too old": PretendedMachine(
        (_H100,), "470.256.02", {"STUB_CUDA_VERSION": "11040", **_NO_NVML}
    ),
    "hidden": PretendedMachine((_L4,), environment={"CUDA_VISIBLE_DEVICES": "-1"}),
}
