"""The architecture, read from the imports: shelves know nouns, steps know shelves, nobody knows steps but flows."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "hvt_deploy"
SHELVES = {"models", "graph", "engine", "backends", "measure", "report", "serving"}
STEERING = {
    "steps", "flows", "cli", "workspace", "calibrated", "rows", "verdict", "conclusion", "classifier", "__init__",
    "__main__",
}  # fmt: skip
DOORS = {("measure", "hvt_deploy.backends.base"), ("backends", "hvt_deploy.engine.flavour")}
HOMES = {
    "torch": ("models/", "graph/export.py", "backends/pytorch.py", "backends/registry.py", "steps/export.py"),
    "onnxruntime": ("backends/ort.py", "backends/ort_pixels.py", "graph/", "serving/triton_models/network.py"),
    "typer": ("cli/",),
    "rich": ("cli/", "report/terminal.py"),
    "matplotlib": ("report/svg.py", "report/pareto.py", "report/plots.py", "report/budget.py"),
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def files():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, path.relative_to(PACKAGE).as_posix()


def test_a_shelf_imports_nouns_and_never_another_shelf():
    wrong = []
    for path, name in files():
        shelf = name.split("/")[0]
        if shelf not in SHELVES:
            continue
        for module in imports(path):
            parts = module.split(".")
            if parts[0] != "hvt_deploy" or len(parts) < 2 or parts[1] == shelf:
                continue
            if parts[1] in STEERING or (parts[1] in SHELVES and (shelf, module) not in DOORS):
                wrong.append(f"{name} imports {module}")
    assert wrong == []


def test_nouns_import_nouns():
    nouns = {p.stem for p, name in files() if "/" not in name} - STEERING
    wrong = [
        f"{name} imports {module}"
        for path, name in files()
        if name.removesuffix(".py") in nouns
        for module in imports(path)
        if module.startswith("hvt_deploy.") and module.split(".")[1] not in nouns
    ]
    assert wrong == []


def test_a_step_never_imports_a_step():
    wrong = [
        f"{name} imports {module}"
        for path, name in files()
        if name.startswith("steps/")
        for module in imports(path)
        if module.startswith(("hvt_deploy.steps.", "hvt_deploy.flows", "hvt_deploy.cli"))
    ]
    assert wrong == []


def test_heavy_libraries_have_one_home():
    wrong = [
        f"{name} imports {module}"
        for path, name in files()
        for module in imports(path)
        if module.split(".")[0] in HOMES and not name.startswith(HOMES[module.split(".")[0]])
    ]
    assert wrong == []


def test_the_command_line_imports_nothing_heavy():
    heavy = "{'torch', 'timm', 'onnx', 'onnxruntime', 'numpy', 'matplotlib', 'PIL', 'tensorrt', 'tensorrt_rtx'}"
    code = f"import sys, hvt_deploy.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
