"""Every TensorRT name this package uses exists in all recorded versions, or only a guarded function
uses it.

A function is guarded if one of its parameters is annotated with a protocol named `Rtx...`; a value
becomes such only by a cast under a comparison with "tensorrt_rtx".
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorrt_rtx
from fake_tensorrt import API, RTX, VERSIONS, find_differences, matches, recorded

import hvt_deploy
from hvt_deploy.runtime.tensorrt import api

PACKAGE = Path(hvt_deploy.__file__).parent
FILES = sorted((PACKAGE / "runtime" / "tensorrt").glob("*.py"))


def known_names() -> tuple[set[str], set[str]]:
    """Names of classes, attributes and members: those that every version has somewhere, and all
    others.
    """
    everywhere, known = set(), set()
    for name, entry in API["classes"].items():
        if name.islower() and not entry.get("attributes"):
            continue  # what the bindings import (os, warnings) and dtype aliases
        parts = {**entry.get("attributes", {}), **entry.get("members", {})}
        known |= {name, *parts}
        if not entry.get("absent"):
            everywhere |= {name, *(p for p, e in parts.items() if not e.get("absent"))}
    return everywhere, known - everywhere


STABLE, UNSTABLE = known_names()


def chain(node: ast.expr) -> list[str]:
    """`a.b.c` as ["a", "b", "c"]; [] where it starts with something else than a name."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        before = chain(node.value)
        return [*before, node.attr] if before else []
    return []


def is_guarded(function: ast.AST) -> bool:
    if not isinstance(function, ast.FunctionDef):
        return False
    annotations = [a.annotation for a in [*function.args.args, *function.args.kwonlyargs]]
    return any(isinstance(a, ast.Name) and a.id.startswith("Rtx") for a in annotations)


def attributes(node: ast.AST, guarded: bool = False) -> Iterator[tuple[ast.Attribute, bool]]:
    """Every attribute access below `node`, and whether it is in a guarded function."""
    guarded = guarded or is_guarded(node)
    if isinstance(node, ast.Attribute):
        yield node, guarded
    for child in ast.iter_child_nodes(node):
        yield from attributes(child, guarded)


def unguarded_casts(node: ast.AST, guarded: bool = False) -> Iterator[str]:
    """Casts to `Rtx...` that are not inside `if ... == "tensorrt_rtx":`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "cast":
        target = node.args[0]
        if isinstance(target, ast.Constant) and str(target.value).startswith("Rtx") and not guarded:
            yield f"line {node.lineno}: cast to {target.value} without a check of the flavour"
    for name, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        inside = guarded or (
            name == "body" and isinstance(node, ast.If) and _compares_with_rtx(node.test)
        )
        for child in children:
            if isinstance(child, ast.AST):
                yield from unguarded_casts(child, inside)


def _compares_with_rtx(test: ast.expr) -> bool:
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.ops[0], ast.Eq)
        and isinstance(test.comparators[0], ast.Constant)
        and test.comparators[0].value == "tensorrt_rtx"
    )


def problems(source: str) -> list[str]:
    """The names in a module's source that not every version has."""
    tree = ast.parse(source)
    found = [(node, guarded, chain(node)) for node, guarded in attributes(tree)]
    if not any("trt" in names for *_, names in found):
        return []  # a module that touches no TensorRT object
    wrong = list(unguarded_casts(tree))
    modules = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    for node, guarded, names in found:
        versions = [RTX] if guarded else VERSIONS
        if "trt" in names[:-1]:
            class_name, *member = names[names.index("trt") + 1 :][:2]
            missing = [v for v in versions if recorded(v, class_name, *member) is None]
            wrong += (
                [f"line {node.lineno}: {'.'.join([class_name, *member])} is not in {missing}"]
                if missing
                else []
            )
        elif node.attr in UNSTABLE and not guarded and not modules & set(names[:1]):
            wrong.append(f"line {node.lineno}: .{node.attr} is not in every version")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_name_exists_in_every_version(path: Path) -> None:
    assert problems(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "config.set_flag(trt.BuilderFlag.FP16)",
        "n = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))",
        "config.int8_calibrator = calibrator",
        "layer.set_output_type(0, dtype)",
        "parser.supports_model(data)",
        "x = engine.device_memory_size",
        "reader = trt.IStreamReaderV2()",
        "trt.init_everything()",
        "config.num_compute_capabilities = 1",
        "rtx = cast('RtxIBuilderConfig', config)",
        "if flavour.info.name != 'tensorrt_rtx':\n    rtx = cast('RtxIBuilderConfig', config)",
        "if flavour.info.name == 'tensorrt_rtx':\n    pass\n"
        "else:\n    rtx = cast('RtxIBuilderConfig', config)",
    ],
)
def test_a_name_that_some_version_lacks_is_found(line: str) -> None:
    body = line.replace("\n", "\n    ")
    assert problems(f"def f(trt):\n    trt.Builder(logger)\n    {body}\n") != []


def test_a_guarded_function_may_use_what_only_rtx_has() -> None:
    source = "def f(trt: RtxTensorRT, config: RtxIBuilderConfig):\n    {}\n"
    assert (
        problems(source.format("config.set_compute_capability(trt.ComputeCapability.SM86, 0)"))
        == []
    )
    assert (
        problems(source.format("config.set_compute_capability(trt.ComputeCapability.SM90, 0)"))
        != []
    )


def test_tables_are_not_empty() -> None:
    assert len(VERSIONS) == 6
    assert "build_serialized_network" in STABLE
    assert {"FP16", "set_dynamic_range", "num_compute_capabilities"} <= UNSTABLE


def test_record_of_rtx_is_that_of_the_installed_library() -> None:
    assert find_differences(tensorrt_rtx, RTX) == []
    assert "BuilderFlag.FP16" in find_differences(tensorrt_rtx, "10.3.0")


PROTOCOLS = [
    (name, value)
    for name, value in vars(api).items()
    if inspect.isclass(value)
    and getattr(value, "_is_protocol", False)
    and value.__module__ == api.__name__
]


@pytest.mark.parametrize(("name", "protocol"), PROTOCOLS, ids=[name for name, _ in PROTOCOLS])
def test_protocols_say_what_the_recorded_api_says(name: str, protocol: type) -> None:
    versions = [RTX] if name.startswith("Rtx") else VERSIONS
    class_name = {"IRuntime": "Runtime"}.get(name, name.removeprefix("Rtx"))
    members = {**getattr(protocol, "__annotations__", {}), **vars(protocol)}
    for member, value in members.items():
        if member.startswith("_"):
            continue
        for version in versions:
            if class_name == "TensorRT":  # the module: its members are classes
                assert recorded(version, member) is not None, f"{member} is not in {version}"
                continue
            entry = recorded(version, class_name, member)
            assert entry is not None, f"{class_name}.{member} is not in {version}"
            if inspect.isfunction(value):
                given = list(inspect.signature(value).parameters)[1:]
                assert matches(entry["parameters"], given), (
                    f"{class_name}.{member}{given}: {entry} in {version}"
                )
