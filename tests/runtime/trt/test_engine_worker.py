"""The code path of TensorRT, which needs a GPU to build: on a stand-in that knows only what each
version has.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_tensorrt import RTX, VERSIONS, FakeTensorRT, World

from hvt_deploy.core.types import Skipped
from hvt_deploy.graph.analysis.engine_cost import EngineCost
from hvt_deploy.graph.analysis.node_facts import NodeFacts
from hvt_deploy.runtime.tensorrt.build_process import compile_engine
from hvt_deploy.runtime.tensorrt.cost import count_profile_cost
from hvt_deploy.runtime.tensorrt.monitor import make_monitor
from hvt_deploy.runtime.tensorrt.plan import BuildPlan, Profile

CLASSIC = [v for v in VERSIONS if v != RTX]


def install(monkeypatch: pytest.MonkeyPatch, world: World, name: str = "tensorrt") -> None:
    monkeypatch.setitem(sys.modules, name, FakeTensorRT(world))


@pytest.fixture
def plan(tmp_path: Path) -> BuildPlan:
    onnx = tmp_path / "model.onnx"
    onnx.write_bytes(b"graph")
    engine = tmp_path / "model.trt-sm87.engine"
    profiles = (Profile(1, 8, 32), Profile(1, 1, 1))
    return BuildPlan(
        onnx, engine, "tensorrt", ("8.7",), profiles, 2048, tmp_path / "cache" / "timing.cache"
    )


@pytest.mark.parametrize("version", CLASSIC)
def test_build_on_every_recorded_version(plan: BuildPlan, monkeypatch, version: str) -> None:
    world = World(version, ranges=((1, 8, 32), (1, 1, 1)))
    install(monkeypatch, world)
    outcome = compile_engine(plan)
    strongly_typed = 2 if version.startswith("10.") else 1
    assert world.calls[:5] == [
        f"network flags {strongly_typed}",
        f"MemoryPoolType.WORKSPACE = {2048 * 2**20}",
        "clear BuilderFlag.TF32",
        "profile images 1,8,32",
        "profile images 1,1,1",
    ]
    assert plan.engine.read_bytes() == b"engine"
    assert outcome.flavour.version == version
    assert [(layer.name, layer.profile, layer.inputs[0].dtype) for layer in outcome.layers] == [
        ("head", 0, "Float"),
        ("head [profile 1]", 1, "Float"),
    ]
    assert outcome.notes == ()
    assert world.contexts == set()


@pytest.mark.parametrize("fixed", [True, False])
def test_every_profile_of_an_int8_engine_is_inspected_with_its_shape(
    plan: BuildPlan, monkeypatch, fixed: bool
) -> None:
    ranges = ((2, 2, 2),) if fixed else ((1, 8, 32), (1, 1, 1), (64, 64, 64))
    world = World(
        "10.3.0", ranges=ranges, fixed=fixed, kernel_format="Thirty-two wide channel Int8"
    )
    install(monkeypatch, world)
    profiles = () if fixed else tuple(Profile(*limits) for limits in ranges)
    layers = compile_engine(replace(plan, profiles=profiles)).layers
    assert [(layer.profile, layer.precision) for layer in layers] == [
        (profile, "Int8") for profile in range(len(ranges))
    ]


def test_cost_of_every_profile_is_in_the_inspector_s_list(plan: BuildPlan, monkeypatch) -> None:
    """TensorRT needs no second build; what its list does not tell stays unknown."""
    install(monkeypatch, World("10.13.3.9", ranges=((1, 8, 32), (1, 1, 1))))
    plan = replace(plan, profiles=(Profile(1, 8, 32), Profile(1, 1, 1)))
    outcome, nodes = compile_engine(plan), (NodeFacts("head", "head", "head"),)
    for place, batch in enumerate((8, 1)):
        cost = count_profile_cost(plan, outcome, nodes, place, batch).own
        assert isinstance(cost, EngineCost)
        assert (cost.whole.kernels, cost.whole.read) == (1, {"fp32": batch * 3 * 8 * 8 * 4})
    install(monkeypatch, World("10.13.3.9", formats_told=False, weights="Int8"))
    plan = replace(plan, profiles=(Profile(1, 8, 32),))
    unknown = count_profile_cost(plan, compile_engine(plan), nodes, 0, 8).own
    assert isinstance(unknown, Skipped)
    assert "dimensions [-1, 3, 8, 8]" in unknown.why


def test_formats_that_the_inspector_does_not_tell_are_those_of_the_weights(
    plan: BuildPlan, monkeypatch
) -> None:
    world = World("10.13.3.9", formats_told=False, weights="Int8")
    install(monkeypatch, world)
    (layer,) = compile_engine(plan).layers
    assert layer.precision == "Int8"


def test_engine_whose_formats_stay_unknown_is_not_audited(plan: BuildPlan, monkeypatch) -> None:
    install(monkeypatch, World("10.13.3.9", formats_told=False))
    outcome = compile_engine(plan)
    assert outcome.layers == ()
    (note,) = outcome.notes
    assert "not audited" in note
    assert "data types of 1 of 1 layers, 'head'" in note
    assert plan.engine.is_file()


def test_timing_cache_is_kept_and_used_again(plan: BuildPlan, monkeypatch) -> None:
    world = World("10.3.0")
    install(monkeypatch, world)
    compile_engine(plan)
    assert plan.timing_cache is not None
    assert plan.timing_cache.read_bytes() == world.timing_cache
    assert compile_engine(plan).notes == ()
    assert [p.name for p in plan.timing_cache.parent.iterdir()] == ["timing.cache"]


def test_timing_cache_of_another_version_is_ignored_with_a_note_and_replaced(
    plan: BuildPlan, monkeypatch
) -> None:
    install(monkeypatch, World("10.3.0"))
    assert plan.timing_cache is not None
    plan.timing_cache.parent.mkdir()
    plan.timing_cache.write_bytes(b"timings of another version")
    (note,) = compile_engine(plan).notes
    assert "ignored" in note
    assert plan.timing_cache.read_bytes() == b"timings of this version"


def test_timing_cache_that_cannot_be_written_does_not_fail_a_build(
    plan: BuildPlan, monkeypatch
) -> None:
    install(monkeypatch, World("10.3.0"))
    blocked = replace(plan, timing_cache=plan.onnx / "timing.cache")
    (note,) = compile_engine(blocked).notes
    assert "could not be written" in note
    assert plan.engine.is_file()


def test_rtx_is_not_asked_for_timing_caches(plan: BuildPlan, monkeypatch) -> None:
    world = World(RTX)
    install(monkeypatch, world, "tensorrt_rtx")
    compile_engine(replace(plan, flavour="tensorrt_rtx", compute_capabilities=("8.6",)))
    assert "target 0: ComputeCapability.SM86" in world.calls
    assert plan.timing_cache is not None
    assert not plan.timing_cache.exists()


def test_progress_of_nested_phases_only_grows(capsys) -> None:
    monitor = make_monitor(FakeTensorRT(World("11.4.0.106")))
    monitor.phase_start("build", None, 2)
    monitor.phase_start("first", "build", 4)
    for step in range(4):
        assert monitor.step_complete("first", step)
    monitor.phase_finish("first")
    monitor.step_complete("build", 0)
    monitor.phase_start("again", "build", 2)
    monitor.step_complete("again", 0)
    monitor.phase_finish("again")
    monitor.step_complete("build", 1)
    monitor.phase_finish("build")
    monitor.phase_start("late", None, 3)  # a second tree must not start over
    monitor.step_complete("late", 0)
    shown = [int(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert shown == [125, 250, 375, 500, 750, 1000]
