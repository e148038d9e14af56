"""Memory and disk of an export: what is said beforehand, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from command_line import run

from hvt_deploy.core.environment import available_memory_bytes
from hvt_deploy.core.errors import MissingEnvironment
from hvt_deploy.graph import export_needs as needs
from hvt_deploy.graph.export_needs import ExportNeeds, estimate_export, require_resources
from hvt_deploy.graph.storage import external_weights_path


def needs_of(parameters: int, folder: Path) -> ExportNeeds:
    beside = external_weights_path(folder, 4 * parameters) is not None
    return estimate_export(parameters, 4 * parameters, folder, external=beside)


def test_a_larger_model_needs_more_and_at_least_its_weights_once_in_memory_and_twice_on_disk(
    tmp_path,
):
    small, large = needs_of(10**6, tmp_path), needs_of(10**9, tmp_path)
    assert large.memory_bytes > small.memory_bytes
    assert large.memory_bytes >= 4 * 10**9
    assert large.disk_bytes >= 8 * 10**9


def test_faster_vit_6_fits_into_20_gib(tmp_path):
    assert needs_of(1_360_000_000, tmp_path).memory_bytes < 20 * 2**30


def test_position_biases_of_large_windows_count(tmp_path):
    spec = "faster_vit_4_21k_768"
    done = run("export", spec, "--dry-run", "--json", cwd=tmp_path)
    said = json.loads(done.stdout)
    assert said["memory_bytes"] > 4 * 4 * said["parameters"], (
        "1.1 GB of parameters, 5.5 GB of them and biases"
    )


def test_available_memory_is_some_of_what_the_machine_has():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_memory_bytes() <= total


@pytest.mark.parametrize(
    ("resource", "words"), [("available_memory_bytes", "of memory"), ("free_disk_bytes", "free")]
)
def test_what_cannot_fit_is_refused_with_both_numbers(monkeypatch, tmp_path, resource, words):
    for name in ("available_memory_bytes", "free_disk_bytes"):
        monkeypatch.setattr(
            needs, name, lambda *_, there=3 if name == resource else 300: there * 10**9
        )
    with pytest.raises(MissingEnvironment, match=words) as refused:
        require_resources(needs_of(10**9, tmp_path), tmp_path)
    assert "only 3.0" in refused.value.message
    require_resources(needs_of(10**6, tmp_path), tmp_path)


def test_a_dry_run_exports_nothing(tmp_path):
    done = run("export", "faster_vit_6_224", "--dry-run", "--json", cwd=tmp_path)
    said = json.loads(done.stdout)
    assert 1.3e9 < said["parameters"] < 1.4e9
    assert said["fits"] == (
        said["memory_bytes"] <= said["available_memory_bytes"]
        and said["disk_bytes"] <= said["free_disk_bytes"]
    )
    assert list(tmp_path.iterdir()) == []
