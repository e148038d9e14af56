"""Every field of every record has its own line of documentation."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "hvt_deploy"


def records(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and any(
            "dataclass" in ast.unparse(decorator) for decorator in node.decorator_list
        ):
            yield node


def undocumented_fields(record):
    """Fields with neither a docstring below them nor an entry in the class docstring."""
    documentation = ast.get_docstring(record) or ""
    for field, below in zip(record.body, [*record.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign):
            continue
        name = field.target.id
        has_docstring = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        has_entry = re.search(rf"^\s*{name}:", documentation, re.MULTILINE)
        if not (has_docstring or has_entry):
            yield name


def test_every_field_of_a_record_is_documented():
    missing = [
        f"{path.relative_to(PACKAGE)} {record.name}.{name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent.name != "cli"  # the options' help documents them
        for record in records(path)
        for name in undocumented_fields(record)
    ]
    assert not missing
