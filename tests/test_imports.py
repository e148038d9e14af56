"""The architecture, read from the imports: a package imports only packages to its left."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "hvt_deploy"
ORDER = ("core", "data", "graph", "models", "runtime", "evaluation", "commands", "cli")
HOMES = {
    "torch": (
        "models/",
        "graph/torch_export.py",
        "runtime/pytorch.py",
        "runtime/backend_registry.py",
        "commands/graph_export.py",
        "evaluation/verification/torch_cuda.py",
    ),
    "onnxruntime": (
        "runtime/ort.py",
        "runtime/ort_cuda.py",
        "runtime/ort_session.py",
        "runtime/ort_pixels.py",
        "runtime/providers.py",
        "graph/",
        "runtime/triton/templates/network.py",
    ),
    "typer": ("cli/",),
    "rich": ("evaluation/report/terminal.py", "evaluation/report/console.py"),
    "matplotlib": tuple(
        f"evaluation/report/{name}.py"
        for name in ("benchmark_plot", "svg", "pareto", "plots", "cost_plot", "accuracy_budget")
    ),
}


def files():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, path.relative_to(PACKAGE).as_posix()


def imported_modules(path):
    """Every module that a file names in an import; `from package import module` is that module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_a_package_imports_only_packages_to_its_left():
    wrong = []
    for path, name in files():
        package = name.split("/")[0]
        if package not in ORDER:
            continue
        for module in imported_modules(path):
            parts = module.split(".")
            if (
                parts[0] == "hvt_deploy"
                and parts[1] in ORDER
                and ORDER.index(parts[1]) > ORDER.index(package)
            ):
                wrong.append(f"{name} imports {module}")
    assert wrong == []


def test_the_root_holds_the_eight_packages_and_nothing_else():
    found = {p.name for p in PACKAGE.iterdir() if p.name != "__pycache__"}
    assert found == {*ORDER, "__init__.py", "__main__.py", "py.typed", "export_configs"}


def test_heavy_libraries_have_one_home():
    wrong = [
        f"{name} imports {module}"
        for path, name in files()
        for module in imported_modules(path)
        if module.split(".")[0] in HOMES and not name.startswith(HOMES[module.split(".")[0]])
    ]
    assert wrong == []


def test_the_command_line_imports_nothing_heavy():
    heavy = {"torch", "timm", "onnx", "onnxruntime", "numpy", "matplotlib", "PIL"}
    heavy |= {"tensorrt", "tensorrt_rtx"}
    code = f"import sys, hvt_deploy.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
