"""These tests run in a child process of ../test_on_stub.py, where libcuda is the stub."""

from __future__ import annotations

import os

import pytest
from stub_libcuda import Stub

collect_ignore_glob = [] if "STUB_LIBCUDA" in os.environ else ["test_*.py"]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    """The loaded stub, with nothing left over in it."""
    monkeypatch.delenv("STUB_CUDA_FAIL", raising=False)
    return Stub()
