"""Facts about the machine."""

from __future__ import annotations

import pytest

from hvt_deploy.commands import doctor
from hvt_deploy.core.environment import int8_saturates, is_jetson, power_mode


@pytest.mark.parametrize(
    ("said", "mode"), [("NV Power Mode: MAXN\n0\n", "MAXN"), ("no answer\n", "unknown")]
)
def test_a_jetsons_power_mode_is_what_nvpmodel_says(said, mode, tmp_path, monkeypatch):
    tool = tmp_path / "nvpmodel"
    tool.write_text(f"#!/bin/sh\nprintf '{said}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert power_mode(tmp_path) == mode


def test_the_clocks_of_gpu_and_cpu_stand_beside_it(tmp_path, monkeypatch):
    tool = tmp_path / "nvpmodel"
    tool.write_text("#!/bin/sh\necho 'NV Power Mode: 15W'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    gpu, cpu = tmp_path / "class/devfreq/17000000.gpu", tmp_path / "devices/system/cpu/cpu0/cpufreq"
    for folder, names, clocks in (
        (gpu, ("cur_freq", "max_freq"), ("306000000\n", "1300500000\n")),
        (cpu, ("scaling_cur_freq", "scaling_max_freq"), ("729600\n", "2201600\n")),
    ):
        folder.mkdir(parents=True)
        for name, clock in zip(names, clocks, strict=True):
            (folder / name).write_text(clock)
    assert power_mode(tmp_path) == "15W, 17000000.gpu 306 of 1300 MHz, cpu 729 of 2201 MHz"
    (cpu / "scaling_max_freq").unlink()
    assert power_mode(tmp_path).endswith("cpu unknown")


def test_other_machines_have_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert power_mode() == ""


HASWELL = frozenset({"sse4_1", "avx", "avx2", "fma"})
SKYLAKE_SERVER = HASWELL | {"avx512f", "avx512bw"}


@pytest.mark.parametrize("flags", [HASWELL, SKYLAKE_SERVER])
def test_x86_without_vnni_saturates_and_doctor_says_so(flags, tmp_path, monkeypatch):
    assert int8_saturates(flags)
    monkeypatch.setattr(doctor, "cpu_flags", lambda: flags)
    monkeypatch.setattr(doctor, "open_parts", lambda *_: {})
    said = doctor.check_machine(tmp_path).facts["int8 on the cpu"]
    assert "saturate" in said
    assert "session.x64quantprecision" in said


@pytest.mark.parametrize(
    "flags",
    [
        HASWELL | {"avx_vnni"},
        SKYLAKE_SERVER | {"avx512_vnni"},
        {"sse4_1", "ssse3"},
        {"fp", "asimd", "asimddp"},
        set(),
    ],
    ids=["alder-lake", "cascade-lake", "nehalem", "arm", "unknown"],
)
def test_other_processors_sum_in_32_bits(flags, tmp_path, monkeypatch):
    assert not int8_saturates(flags)
    monkeypatch.setattr(doctor, "cpu_flags", lambda: flags)
    monkeypatch.setattr(doctor, "open_parts", lambda *_: {})
    assert "saturate" not in doctor.check_machine(tmp_path).facts["int8 on the cpu"]


@pytest.mark.parametrize(
    ("kernel", "compatible", "jetson"),
    [
        ("5.15.148-tegra", None, True),  # a container, which hides the device tree
        ("6.6.23-yocto", "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0", True),
        ("6.8.0-1021-nvidia-64k", None, False),  # Grace: ACPI, no device tree
        ("6.12.25", "raspberrypi,5-model-b\0brcm,bcm2712\0", False),
    ],
)
def test_a_jetson_is_told_by_its_kernel_or_device_tree(
    kernel, compatible, jetson, tmp_path, monkeypatch
):
    monkeypatch.setattr("platform.release", lambda: kernel)
    if compatible is not None:
        (tmp_path / "compatible").write_text(compatible)
    assert is_jetson(tmp_path) == jetson
