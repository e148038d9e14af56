"""Being here puts this folder on the path: tests share the modules in it."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from exports import CopyModel

_unwanted: list[str] = []


# The files that take longest: a worker that began one of them last would keep `make test` waiting.
_LONGEST = (
    "test_pipeline.py",
    "test_families.py",
    "test_every_family.py",
    "test_export_command.py",
    "test_torch_export.py",
    "test_budget.py",
    "test_bundle.py",
    "test_timm.py",
    "test_weights.py",
    "test_divergence.py",
    "test_hvt.py",
    "test_pretended_machines.py",
    "test_published.py",
    "test_preprocess_in_graph.py",
    "test_triton.py",
    "test_sweep.py",
    "test_dfvt.py",
    "test_faster_vit.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; `make unit` hands out whole files in this order."""
    order = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_collection_finish() -> None:
    """The half million objects that imports made need not be looked at in every collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def short_timings() -> None:
    """No test of a validation waits until latencies are stable; evaluation/test_latency.py has the
    measuring itself.
    """
    from short_timings import shorten_timings

    shorten_timings()


@pytest.fixture(scope="session", autouse=True)
def no_compiler() -> None:
    """No test of something else waits for torch.compile, half a minute for each model."""
    os.environ["CXX"] = "no-compiler-in-tests"


@pytest.fixture(scope="session", autouse=True)
def parity_here() -> None:
    """No test of something else starts processes to compare an export with PyTorch."""
    from exports import prove_parity_here

    prove_parity_here()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> CopyModel:
    """Copies an exported model to a workspace: `exported(workspace, model, flags, slug)`."""
    from exports import copy_model

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the workers of one run share it
    return partial(copy_model, folder / "exports")


@pytest.fixture(scope="session")
def exported_graph(
    exported: CopyModel, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The file of a demo model's FP32 graph, by the model's name: opset 17, any batch."""

    def find_graph(model: str) -> Path:
        folder = exported(tmp_path_factory.mktemp("graph"), model)
        return folder.file(folder.read().artifacts["fp32"])

    return find_graph


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember what was skipped for another reason than a missing GPU."""
    if report.skipped and "gpu" not in report.keywords and not hasattr(report, "wasxfail"):
        _unwanted.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI everything that needs no GPU has to run: a skip there would hide what nobody checks."""
    gc.unfreeze()
    if os.environ.get("CI", "").lower() == "true" and _unwanted:
        print(f"\nSkipped without the gpu marker: {', '.join(_unwanted)}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
