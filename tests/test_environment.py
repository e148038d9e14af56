"""What a machine says of itself."""

from __future__ import annotations

import pytest

from hvt_deploy.environment import power_mode


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
