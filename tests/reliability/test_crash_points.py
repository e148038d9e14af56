"""Every verb is ended hard at each step that changes the disk: what was there before is still
there, and the next run works.
"""

from __future__ import annotations

import pytest
from crash_points import VERBS

# In `make test` a few steps of a few verbs.
_SHORT = {"export": 5, "quantize other images": 27, "bundle": 2}


@pytest.mark.parametrize("name", _SHORT)
def test_some_steps(name, attempt):
    record = attempt("verb", name, _SHORT[name])
    assert record["steps"] > 2
    assert not record["faults"]


@pytest.mark.slow
@pytest.mark.parametrize("name", VERBS)
def test_every_step(name, attempt):
    record = attempt("verb", name, 1)
    assert record["steps"] == record["killed"]
    assert not record["faults"]
