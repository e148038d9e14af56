"""The program that tries things in forks of itself, one for all tests here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_PATHS = (_HERE, _HERE.parent, _HERE.parent.parent)


@pytest.fixture(scope="session")
def attempt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[str, object]]]:
    """Asks the program for a record: `attempt("kind", NAME)` or `attempt("verb", NAME, EVERY)`."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # the workers of one run share it
    folders = map(str, (tmp_path_factory.mktemp("reliability"), shared / "exports"))
    paths = [*map(str, _PATHS), os.environ.get("PYTHONPATH", "")]
    with subprocess.Popen(
        [sys.executable, str(_HERE / "program.py"), *folders],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "CI": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:

        def ask(*request: object) -> dict[str, object]:
            program.stdin.write(json.dumps(request) + "\n")
            program.stdin.flush()
            answer = json.loads(program.stdout.readline() or "null")
            assert answer is not None, "the program has ended"
            return answer

        yield ask
        program.stdin.close()
