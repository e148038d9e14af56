"""Every kind of bad input ends with the right exit code and one sentence: nothing is lost, left
behind or executed, in bounded time and memory. The table is in `table.py`.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest
from memory_kinds import BOUNDS
from table import CHANNELS, KINDS

# The fewest kinds of each group of channels.
_FEWEST = {
    "images": 45,
    "checkpoints": 60,
    "flags": 130,
    "artifacts": 80,
    "onnx files": 35,
    "folders": 45,
    "environments": 60,
    "configurations": 30,
    "memory": 10,
}
# In `make test` every so many kinds of a group; the others are slow together only.
_EVERY = 50


def list_parameters():
    found = []
    for group, names in CHANNELS.items():
        for number, name in enumerate(names):
            marks = [pytest.mark.slow] if (number + 11) % _EVERY else []
            found.append(pytest.param(name, marks=marks, id=f"{group}-{name}"))
    return found


@pytest.mark.parametrize("name", list_parameters())
def test_bad_input_ends_with_one_sentence(name, attempt):
    record = attempt("kind", name)
    assert not record["faults"], record["said"]


def test_the_table_is_large_enough():
    counts = Counter({group: len(names) for group, names in CHANNELS.items()})
    assert not {group: counts[group] for group, few in _FEWEST.items() if counts[group] < few}
    assert len(KINDS) == sum(counts.values()), "no two kinds have the same name"


@pytest.mark.parametrize("name", BOUNDS)
def test_each_bound_of_memory_is_needed(name, attempt):
    assert not attempt("kind", name)["faults"]
    faults = attempt("without bound", name)["faults"]
    assert any(re.search(r"took .* MiB", fault) for fault in faults), faults
