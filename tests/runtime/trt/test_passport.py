from __future__ import annotations

import hashlib
import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.gpus import Gpu
from hvt_deploy.core.types import Skipped
from hvt_deploy.graph.analysis.engine_cost import ProfileCost
from hvt_deploy.graph.analysis.node_facts import NodeFacts
from hvt_deploy.runtime.tensorrt.audit import audit_layers
from hvt_deploy.runtime.tensorrt.build import BuildOutcome
from hvt_deploy.runtime.tensorrt.cost import count_cost
from hvt_deploy.runtime.tensorrt.flavours import FlavourInfo
from hvt_deploy.runtime.tensorrt.layer_list import EngineLayer
from hvt_deploy.runtime.tensorrt.layer_tensors import LayerTensor
from hvt_deploy.runtime.tensorrt.passport import (
    Machine,
    Passport,
    check_passport,
    make_passport,
    passport_path,
    read_passport,
)
from hvt_deploy.runtime.tensorrt.plan import BuildPlan, Profile

RTX = FlavourInfo("tensorrt_rtx", "1.7.1.116")
A10 = Gpu("NVIDIA A10", "8.6", 23028, "13.0")
HERE = Machine((Skipped("TensorRT", "not installed"), RTX), (A10,))
REBUILD = "hvt-deploy build-trt fdvit_b --int8"


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "fdvit_b.int8.rtx-sm86-sm89.engine"
    path.write_bytes(b"engine")
    return path


@pytest.fixture
def passport(engine: Path) -> Passport:
    onnx = engine.parent / "fdvit_b.int8.onnx"
    onnx.write_bytes(b"graph")
    plan = BuildPlan(
        onnx, engine, "tensorrt_rtx", ("8.6", "8.9"), (Profile(1, 8, 32),), workspace_mib=4096
    )
    tensors = (LayerTensor("x", "Int8", (4,)),), (LayerTensor("y", "Half", (4,)),)
    layers = (EngineLayer("head", "gemm", *tensors, ("head/MatMul",)),)
    outcome = BuildOutcome(engine, RTX, layers, 3.0)
    nodes = (NodeFacts("head/MatMul", "head", "head", macs=4, weights=4),)
    costs = (ProfileCost(8, count_cost(layers, nodes, 8), Skipped("engine cost", "no graph")),)
    audit = audit_layers(layers)
    passport = make_passport(plan, outcome, (), "int8", audit, "c" * 64, costs)
    passport.write(engine)
    return passport


def test_passport_is_next_to_the_engine_and_reads_back(engine: Path, passport: Passport) -> None:
    assert passport_path(engine).name == "fdvit_b.int8.rtx-sm86-sm89.engine.json"
    assert read_passport(engine) == passport
    assert passport.audit.layers.int8 == 1
    assert passport.engine_sha256 == hashlib.sha256(b"engine").hexdigest()
    assert passport.onnx_sha256 == hashlib.sha256(b"graph").hexdigest()
    assert passport.calibration_sha256 == "c" * 64


def test_engine_that_fits_is_let_through(engine: Path, passport: Passport) -> None:
    check_passport(engine, passport, HERE)


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        (
            replace(HERE, flavours=(Skipped("TensorRT-RTX", "not installed"),)),
            "only in TensorRT-RTX 1.7.1.116",
        ),
        (
            replace(HERE, flavours=(FlavourInfo("tensorrt", "1.7.1.116"),)),
            "only in TensorRT-RTX 1.7.1.116",
        ),
        (
            replace(HERE, flavours=(FlavourInfo("tensorrt_rtx", "1.8.0.1"),)),
            "here is TensorRT-RTX 1.8.0.1",
        ),
        (replace(HERE, gpus=()), "needs an NVIDIA GPU of compute capability 8.6 or 8.9"),
        (
            replace(HERE, gpus=(Gpu("NVIDIA H100", "9.0", 81559, "13.0"),)),
            "the NVIDIA H100 here has 9.0",
        ),
    ],
)
def test_machine_that_does_not_fit_is_refused(
    engine: Path, passport: Passport, machine, message
) -> None:
    with pytest.raises(MissingEnvironment) as caught:
        check_passport(engine, passport, machine, REBUILD)
    assert message in caught.value.message
    assert "build-trt" in caught.value.hint


def test_another_engine_under_this_passport_is_refused(engine: Path, passport: Passport) -> None:
    engine.write_bytes(b"enginf")
    with pytest.raises(BadInput, match="not the file its passport describes") as caught:
        check_passport(engine, passport, HERE, REBUILD)
    assert REBUILD in caught.value.hint


FIELDS = [field.name for field in fields(Passport) if field.name != "schema_version"]


@pytest.mark.parametrize(
    ("version", "hint"), [(3, "pip install --upgrade"), (1, REBUILD), (None, REBUILD)]
)
def test_a_passport_of_another_version_is_refused_by_it(
    engine: Path, passport: Passport, version, hint
) -> None:
    path = passport_path(engine)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": version}))
    with pytest.raises(BadInput, match=f"has schema version {version}; .* reads 2") as caught:
        read_passport(engine, REBUILD)
    assert hint in caught.value.hint


@pytest.mark.parametrize("field", FIELDS)
def test_edited_field_is_refused_by_name_with_the_command_that_rebuilds(
    engine: Path, passport: Passport, field
) -> None:
    path = passport_path(engine)
    sidecar = json.loads(path.read_text())
    value = sidecar[field]
    edited = {str: "edited", int: 99, list: [], dict: {}}[type(value)]
    path.write_text(json.dumps({**sidecar, field: edited}))
    with pytest.raises(
        BadInput, match=f"was edited: its field '{field}' says {re.escape(json.dumps(edited))}"
    ) as caught:
        check_passport(engine, read_passport(engine, REBUILD), HERE)
    assert caught.value.hint == f"Build it again: {REBUILD}"


@pytest.mark.parametrize("field", FIELDS)
def test_field_that_is_gone_is_named(engine: Path, passport: Passport, field) -> None:
    path = passport_path(engine)
    sidecar = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in sidecar.items() if key != field}))
    with pytest.raises(BadInput, match=f"its field '{field}' is gone"):
        read_passport(engine)


def test_number_deep_in_the_audit_is_part_of_its_field(engine: Path, passport: Passport) -> None:
    path = passport_path(engine)
    sidecar = json.loads(path.read_text())
    sidecar["audit"]["layers"]["int8"] = 50
    path.write_text(json.dumps(sidecar))
    with pytest.raises(BadInput, match="its field 'audit'"):
        read_passport(engine)


def test_field_that_was_added_is_refused(engine: Path, passport: Passport) -> None:
    path = passport_path(engine)
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "red"}))
    with pytest.raises(BadInput, match="its field 'colour'"):
        read_passport(engine)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engine_sha256": "0" * 64}, "not the file its passport describes"),
        ({"flavour": "tensorrt"}, "only in TensorRT 1.7.1.116, which is not installed"),
        ({"version": "1.6.0"}, "built with TensorRT-RTX 1.6.0"),
        ({"compute_capabilities": ("9.0",)}, "for compute capability 9.0"),
    ],
)
def test_passport_that_was_written_for_another_engine(
    engine: Path, passport: Passport, change, message
) -> None:
    """With seals that fit: what can be compared with the engine, the library and the GPU, is."""
    replace(passport, **change).write(engine)
    with pytest.raises((BadInput, MissingEnvironment), match=message) as caught:
        check_passport(engine, read_passport(engine), HERE, REBUILD)
    assert REBUILD in caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no passport"),
        (b"{", "damaged"),
        (b"\xff", "damaged"),
        (b"[]", "damaged"),
        (b'{"schema_version": 2}', "has no seals"),
    ],
)
def test_passport_that_is_missing_or_damaged(engine: Path, content, message) -> None:
    if content is not None:
        passport_path(engine).write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        read_passport(engine, REBUILD)
    assert REBUILD in caught.value.hint


def test_missing_engine(engine: Path, passport: Passport) -> None:
    engine.unlink()
    with pytest.raises(BadInput, match="no engine"):
        check_passport(engine, passport, HERE)
