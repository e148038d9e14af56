"""Fixtures of the tests that need an NVIDIA GPU. `python benchmarks/gpu_check.py` runs them there
and keeps the measurements.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from engines import Engines
from exported import Exported, Record, export_model

from hvt_deploy.core.gpus import find_gpus, search_gpus
from hvt_deploy.core.serialization import to_plain


@pytest.fixture(scope="session", autouse=True)
def needs_gpu() -> None:
    if not find_gpus():
        pytest.skip(f"there is no NVIDIA GPU here: {search_gpus().why_none}")


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Appends a measurement, as one line of JSON, to the file that GPU_CHECK_RECORDS names."""
    test = request.node.name  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

    def write(**facts: object) -> None:
        path = os.environ.get("GPU_CHECK_RECORDS")
        if path:
            with Path(path).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"test": str(test), **_to_plain(facts)}) + "\n")

    return write


def _to_plain(facts: dict[str, object]) -> dict[str, object]:
    return {name: to_plain(value) for name, value in facts.items()}


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_model(tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="session")
def engines(exported: Exported) -> Engines:
    return Engines(exported, find_gpus())
