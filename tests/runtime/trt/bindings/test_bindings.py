"""The TensorRT code against NVIDIA's real Python bindings: run on them, and type-checked.

The bindings are small wheels of their own; the C++ libraries that they link are on no package
index, and a stub of ours (`stub_tensorrt.c`) stands for them.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fake_tensorrt
import pytest
from fake_tensorrt import RTX
from stub_libcuda import pretend_gpus

import hvt_deploy
from hvt_deploy.runtime.tensorrt import api

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
TESTS = HERE.parents[2]
STUB_GENERATOR = "pybind11-stubgen==3.0.0"
WHEELS = {
    "10.3.0": "tensorrt-cu12-bindings==10.3.0",
    "10.13.3.9": "tensorrt-cu12-bindings==10.13.3.9",
    "11.4.0.106": "tensorrt-cu13-bindings==11.4.0.106",
}
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")


@dataclass(frozen=True)
class Bindings:
    """One version of the bindings in a folder of its own."""

    version: str
    module: str
    """The module that pybind11 made."""
    path: str
    """The folder to put on the path, "" where it is installed with the tests."""
    stubs: Path
    """The folder of its type stubs."""


def run(*command: str | Path, path: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables, "PYTHONPATH": path}
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env=environment
    )


def install(folder: Path, requirement: str) -> Path:
    done = run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary=:all:", "--target", folder, requirement),
    )
    assert done.returncode == 0, done.stderr
    return folder


def install_bindings(folder: Path, version: str) -> Path:
    """The wheel, the package `tensorrt` as NVIDIA's wheel of that name has it, and the stubs."""
    install(folder, WHEELS[version])
    package = folder / "tensorrt"
    package.mkdir()
    lines = "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    (package / "__init__.py").write_text(lines)
    major = version.partition(".")[0]
    for library in LIBRARIES:
        name = f"lib{library}.so.{major}"
        source = HERE / "stub_tensorrt.c" if library == "nvinfer" else Path(os.devnull)
        done = run(
            *("cc", "-shared", "-fPIC", f"-DMAJOR={major}", f"-Wl,-soname,{name}"),
            *("-o", folder / "tensorrt_bindings" / name, "-xc", source),
        )
        assert done.returncode == 0, done.stderr
    return folder


def generate_stubs(module: str, path: str, generator: Path, folder: Path) -> None:
    """Type stubs of a module. Up to Python 3.11 nothing tells that an object is a buffer."""
    done = run(
        *(sys.executable, "-m", "pybind11_stubgen", module, "-o", folder, "--ignore-all-errors"),
        path=f"{path}{os.pathsep}{generator}",
    )
    assert done.returncode == 0, done.stderr
    (stub,) = (folder / module).glob("tensorrt*.pyi")
    text = stub.read_text()
    buffer = "class IHostMemory:\n    def __buffer__(self, flags: int, /) -> memoryview: ...\n"
    assert text.count("class IHostMemory:\n") == 1
    if "__buffer__" not in text:
        stub.write_text(text.replace("class IHostMemory:\n", buffer))


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> Path:
    return install(tmp_path_factory.mktemp("generator"), STUB_GENERATOR)


@pytest.fixture(scope="module", params=[*WHEELS, RTX])
def bindings(request, tmp_path_factory, generator: Path) -> Bindings:
    version = request.param
    stubs = tmp_path_factory.mktemp(f"stubs-{version}")
    module, path = "tensorrt_rtx_bindings", ""
    if version != RTX:
        module = "tensorrt_bindings"
        path = str(install_bindings(tmp_path_factory.mktemp(version), version))
    generate_stubs(module, path, generator, stubs)
    return Bindings(version, module, path, stubs)


@pytest.mark.parametrize("bindings", WHEELS, indirect=True)  # test_build.py runs all of RTX
def test_code_runs_on_the_real_bindings(bindings: Bindings, tmp_path: Path) -> None:
    done = run(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        HERE / "checks_on_bindings.py",
        **pretend_gpus(tmp_path),
        path=os.pathsep.join([bindings.path, str(TESTS.parent)]),
        BINDINGS_VERSION=bindings.version,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 15
    assert "skipped" not in done.stdout


def type_check(folder: Path, *more_paths: Path | str) -> str:
    """What basedpyright finds in the files of `folder`; "" for nothing."""
    paths = [str(path) for path in more_paths]
    venv = Path(sys.prefix)
    config = {
        "include": [str(folder)],
        "extraPaths": paths,
        "typeCheckingMode": "standard",
        "pythonVersion": "3.10",
        "venvPath": str(venv.parent),
        "venv": venv.name,
    }
    file = folder / "pyrightconfig.json"
    file.write_text(repr(config).replace("'", '"'))
    done = run(Path(sysconfig.get_path("scripts")) / "basedpyright", "-p", file)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return "" if done.returncode == 0 else done.stdout


def protocols(is_rtx: bool) -> Iterator[tuple[str, str]]:
    """Our protocols and the names of the real classes, the module's own left out."""
    for name, value in vars(api).items():
        own = getattr(value, "_is_protocol", False) and value.__module__ == api.__name__
        if own and "TensorRT" not in name and (is_rtx or not name.startswith("Rtx")):
            yield name, {"IRuntime": "Runtime"}.get(name, name.removeprefix("Rtx"))


def write_assignments(file: Path, module: str, is_rtx: bool) -> None:
    """A program that takes each real class, and the module, for its protocol."""
    lines = [f"import {module} as real", "from hvt_deploy.runtime.tensorrt import api"]
    lines += [
        f"def take_{name}(value: real.{known}) -> api.{name}: return value"
        for name, known in protocols(is_rtx)
    ]
    lines += ["module: api.TensorRT = real", *["rtx: api.RtxTensorRT = real"] * is_rtx]
    file.write_text("\n".join(lines) + "\n")


def test_real_classes_are_our_protocols(bindings: Bindings, tmp_path: Path) -> None:
    program = tmp_path / "assignments.py"
    write_assignments(program, bindings.module, bindings.version == RTX)
    assert type_check(tmp_path, bindings.stubs, TESTS.parent) == ""
    with program.open("a") as file:
        file.write("wrong: api.IBuilderConfig = real.Builder(real.Logger())\n")
    assert '"Builder" is incompatible with protocol "IBuilderConfig"' in type_check(
        tmp_path, bindings.stubs, TESTS.parent
    )


def test_stand_ins_are_our_protocols(tmp_path: Path) -> None:
    lines = ["import fake_tensorrt as fake", "from hvt_deploy.runtime.tensorrt import api"]
    lines += [
        f"def take_{name}(value: fake.{known}) -> api.{name}: return value"
        for name, known in protocols(is_rtx=True)
        if hasattr(fake_tensorrt, known)
    ]
    assert len(lines) > 15
    lines.append("def take_module(value: fake.FakeTensorRT) -> api.TensorRT: return value")
    program = tmp_path / "assignments.py"
    program.write_text("\n".join(lines) + "\n")
    assert type_check(tmp_path, TESTS, TESTS.parent) == ""
    program.write_text("\n".join(lines).replace("fake.Builder", "fake.Runtime") + "\n")
    assert '"Runtime" is incompatible with protocol "Builder"' in type_check(
        tmp_path, TESTS, TESTS.parent
    )


def write_real_api(source: str, bindings: Bindings) -> str:
    """`api.py` with the real classes in place of the protocols."""
    is_rtx = bindings.version == RTX
    replaced = dict(protocols(is_rtx))
    lines = [
        "from __future__ import annotations",
        f"import {bindings.module} as real",
        *(f"from {bindings.module} import {known} as {name}" for name, known in replaced.items()),
    ]
    for node in ast.parse(source).body[1:]:  # without the docstring
        name = node.name if isinstance(node, ast.ClassDef) else ""
        if name == "TensorRT" or (name == "RtxTensorRT" and is_rtx):
            lines += [f"class {name}(Protocol):", *members_of_module(node)]
        elif name not in replaced and "__future__" not in ast.unparse(node):
            lines.append(ast.unparse(node))
    return "\n".join(lines) + "\n"


def members_of_module(protocol: ast.AST) -> Iterator[str]:
    for part in ast.iter_child_nodes(protocol):
        if isinstance(part, ast.AnnAssign | ast.FunctionDef):
            name = part.name if isinstance(part, ast.FunctionDef) else ast.unparse(part.target)
            yield f"    {name}: type[real.{name}]"


MISTAKES = {
    "config.clear_flag(trt.BuilderFlag.TF32)": "config.clear_flag(trt.ProfilingVerbosity.DETAILED)",
    "build_serialized_network(network, config)": "build_serialized_network(config, network)",
    "trt.Dims([batch, *rest])": "(batch, *rest)",
}


def test_code_is_typed_with_the_real_classes(bindings: Bindings, tmp_path: Path) -> None:
    package = Path(hvt_deploy.__file__).parent
    copy = tmp_path / "copy" / "hvt_deploy"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    folder = copy / "runtime" / "tensorrt"
    source = (folder / "api.py").read_text()
    (folder / "api.py").write_text(write_real_api(source, bindings))
    assert type_check(folder, bindings.stubs, copy.parent) == ""
    worker = folder / "build_process.py"
    text = worker.read_text()
    for right, wrong in MISTAKES.items():
        assert right in text
        text = text.replace(right, wrong)
    worker.write_text(text)
    found = type_check(folder, bindings.stubs, copy.parent)
    assert len(re.findall(r"build_process.py:\d+:\d+ - error", found)) >= len(MISTAKES)
