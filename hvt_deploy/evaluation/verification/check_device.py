"""Section `device`: the GPUs as the driver's library gives them, against NVML and PyTorch."""

from __future__ import annotations

from hvt_deploy.core.errors import MissingEnvironment
from hvt_deploy.core.gpus import Gpu, find_gpus, name_driver
from hvt_deploy.evaluation.gpu_reading import describe_with_nvml, open_gpu_reader
from hvt_deploy.evaluation.verification.checks import CheckList, Fact, expect
from hvt_deploy.evaluation.verification.torch_cuda import list_torch_gpus

# NVML counts what the driver keeps for itself, libcuda does not: 81559 and 81079 MiB of an H100.
_MEMORY_TOLERANCE = 0.03
_SANE_SM_MHZ = (100, 4000)
_SANE_TEMPERATURE_C = (5, 110)


def check_device(checks: CheckList) -> None:
    """Names, order, memory and compute capability of all GPUs; clocks of the first."""
    check_nvml(checks)
    with checks.check("PyTorch") as measured:
        _compare_with_torch(measured)


def check_nvml(checks: CheckList) -> None:
    """The part of `check_device` that does not import PyTorch."""
    gpus = find_gpus()
    for ordinal, gpu in enumerate(gpus):
        with checks.check(f"NVML, GPU {ordinal}") as measured:
            _compare_with_nvml(gpu, measured)
    with checks.check("clocks, power, temperature, memory in use") as measured:
        _read_clocks(gpus[0], measured)


def _compare_with_torch(measured: dict[str, Fact]) -> None:
    gpus, theirs = find_gpus(), list_torch_gpus()
    measured["PyTorch's GPUs"] = len(theirs)
    expect(len(theirs) == len(gpus), f"PyTorch sees {len(theirs)} GPUs, not {len(gpus)}.")
    for ours, other in zip(gpus, theirs, strict=True):
        for field in ("name", "compute_capability", "memory_mib", "uuid"):
            _expect_same(field, getattr(ours, field), getattr(other, field), "PyTorch")


def _compare_with_nvml(gpu: Gpu, measured: dict[str, Fact]) -> None:
    """Raises CheckFailed at the first difference, MissingEnvironment where there is no NVML."""
    theirs = describe_with_nvml(gpu)
    measured.update({"NVML memory_mib": theirs.memory_mib, "libcuda memory_mib": gpu.memory_mib})
    measured.update({"name": gpu.name, "driver": theirs.driver, "pci_bus_id": gpu.pci_bus_id})
    if name_driver():
        _expect_same("driver", name_driver(), theirs.driver, "NVML", ours_is="nvidia-smi")
    fields = ["cuda_version", "compute_capability"]
    if " MIG " not in gpu.name:  # NVML's description is that of the whole GPU
        fields += ["name", "uuid"]
        expect(
            abs(theirs.memory_mib / gpu.memory_mib - 1) <= _MEMORY_TOLERANCE,
            f"NVML reports {theirs.memory_mib} MiB of memory, libcuda {gpu.memory_mib} MiB.",
        )
    for field in fields:
        _expect_same(field, getattr(gpu, field), getattr(theirs, field), "NVML")


def _read_clocks(gpu: Gpu, measured: dict[str, Fact]) -> None:
    reader = open_gpu_reader(gpu)
    measured["notes"] = " ".join(reader.notes)
    if reader.read is None:
        raise MissingEnvironment(f"The clocks of {gpu.name} cannot be read.")
    reading = reader.read()
    if reading is None:
        raise MissingEnvironment(f"The clocks of {gpu.name} can no longer be read.")
    measured.update(
        sm_mhz=reading.sm_mhz,
        power_w=reading.power_w,
        temperature_c=reading.temperature_c,
        memory_mib=reading.memory_mib,
        throttling=", ".join(reading.throttling),
    )
    for quantity, value, (least, most) in (
        ("SM clock", reading.sm_mhz, _SANE_SM_MHZ),
        ("temperature", reading.temperature_c, _SANE_TEMPERATURE_C),
    ):
        expect(least <= value <= most or value == 0, f"The {quantity} reads {value}.")
    expect(reading.sm_mhz > 0, "The SM clock reads 0.")
    expect(0 <= reading.memory_mib <= gpu.memory_mib * (1 + _MEMORY_TOLERANCE), "Memory in use.")


def _expect_same(
    quantity: str, ours: object, other: object, witness: str, ours_is: str = "libcuda"
) -> None:
    expect(ours == other, f"{ours_is} gives the {quantity} {ours!r}, {witness} {other!r}.")
