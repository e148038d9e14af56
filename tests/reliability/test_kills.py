"""Real runs are killed with all their children: nothing is lost, and the next run works."""

from __future__ import annotations

import pytest
from real_runs import KILLED


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLED)
def test_killed_runs(name, attempt):
    record = attempt("kills", name, 3)
    assert not record["faults"]
