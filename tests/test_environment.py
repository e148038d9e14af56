"""What a machine says of itself."""

from __future__ import annotations

import pytest

from hvt_deploy.environment import int8_saturates, power_mode
from hvt_deploy.steps import doctor


@pytest.mark.parametrize(("said", "mode"), [("NV Power Mode: MAXN\n0\n", "MAXN"), ("no answer\n", "unknown")])
def test_a_jetsons_power_mode_is_what_nvpmodel_says(said, mode, tmp_path, monkeypatch):
    tool = tmp_path / "nvpmodel"
    tool.write_text(f"#!/bin/sh\nprintf '{said}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert power_mode() == mode


def test_other_machines_have_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert power_mode() == ""


HASWELL = frozenset({"sse4_1", "avx", "avx2", "fma"})
SKYLAKE_SERVER = HASWELL | {"avx512f", "avx512bw"}


@pytest.mark.parametrize("flags", [HASWELL, SKYLAKE_SERVER])
def test_x86_without_vnni_saturates_and_doctor_says_so(flags, tmp_path, monkeypatch):
    assert int8_saturates(flags)
    monkeypatch.setattr(doctor, "cpu_flags", lambda: flags)
    said = doctor.diagnose(tmp_path).facts["int8 on the cpu"]
    assert "saturate" in said
    assert "session.x64quantprecision" in said


@pytest.mark.parametrize(
    "flags",
    [HASWELL | {"avx_vnni"}, SKYLAKE_SERVER | {"avx512_vnni"}, {"sse4_1", "ssse3"}, {"fp", "asimd", "asimddp"}, set()],
    ids=["alder-lake", "cascade-lake", "nehalem", "arm", "unknown"],
)
def test_other_processors_sum_in_32_bits(flags, tmp_path, monkeypatch):
    assert not int8_saturates(flags)
    monkeypatch.setattr(doctor, "cpu_flags", lambda: flags)
    assert "saturate" not in doctor.diagnose(tmp_path).facts["int8 on the cpu"]
