"""Two to six commands at once on one model: each works or says who holds the model, and the model
is whole afterwards.
"""

from __future__ import annotations

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3, 4, 5, 6])
def test_commands_at_once(number, attempt):
    record = attempt("at once", number, 0)
    assert len(record["exit_codes"]) == number
    assert not record["faults"]
