"""SECURITY.md and COMPATIBILITY.md: what they promise is what tests show."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from hvt_deploy.commands.bundle import BUNDLE_SCHEMA
from hvt_deploy.core.manifest import MANIFEST_SCHEMA
from hvt_deploy.evaluation.record import SCHEMA_VERSION
from hvt_deploy.runtime.tensorrt.passport import PASSPORT_SCHEMA

ROOT = Path(__file__).parent.parent
SECURITY, COMPATIBILITY = ROOT / "SECURITY.md", ROOT / "COMPATIBILITY.md"


def read_rows(page: Path) -> list[list[str]]:
    """The cells of a page's table, without its head."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def is_a_test(name: str) -> bool:
    found = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", name)
    if found is None or not (ROOT / found[1]).is_file():
        return False
    tree = ast.parse((ROOT / found[1]).read_text())
    return found[2] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("page", "tests_in_a_row"), [(SECURITY, 1), (COMPATIBILITY, 2)])
def test_every_promise_names_a_test_that_exists(page: Path, tests_in_a_row: int) -> None:
    rows = read_rows(page)
    assert len(rows) >= 4
    missing = [name for row in rows for name in row[-tests_in_a_row:] if not is_a_test(name)]
    assert not missing


def test_the_versions_are_those_that_are_written() -> None:
    assert {row[0]: int(row[2]) for row in read_rows(COMPATIBILITY)} == {
        "manifest": MANIFEST_SCHEMA,
        "bundle": BUNDLE_SCHEMA,
        "passport": PASSPORT_SCHEMA,
        "results": SCHEMA_VERSION,
    }
