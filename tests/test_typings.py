"""The stub of onnxruntime in `typings/` names only what the installed package has."""

from __future__ import annotations

import ast
from operator import attrgetter
from pathlib import Path

import onnxruntime
import pytest

STUB = Path(__file__).parent.parent / "typings" / "onnxruntime" / "__init__.pyi"


def named(body, prefix=""):
    """The dotted names that a stub declares; `X = ...` and `x: T` of a class among them."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield prefix + node.name
            yield from named(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield prefix + node.name
        elif isinstance(node, ast.AnnAssign):
            yield prefix + node.target.id
        elif isinstance(node, ast.Assign):
            yield prefix + node.targets[0].id


@pytest.mark.parametrize("name", list(named(ast.parse(STUB.read_text()).body)))
def test_onnxruntime_has_what_the_stub_declares(name):
    assert attrgetter(name)(onnxruntime) is not None
