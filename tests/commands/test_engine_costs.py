"""What an INT8 engine costs, next to FP16, on real TensorRT-RTX builds of small graphs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from test_build_trt import FC1, FC2, PLAIN, QUANTIZED, command_line, graph, workspace

from hvt_deploy.commands import engine_costs
from hvt_deploy.commands.build_trt import build_from_graph
from hvt_deploy.commands.engine_costs import check_traffic
from hvt_deploy.commands.engine_gates import check_int8_of_all
from hvt_deploy.core.errors import CheckFailed, ToolFailure
from hvt_deploy.core.run_config import with_flags
from hvt_deploy.core.types import Skipped
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.graph.analysis.engine_cost import EngineCost
from hvt_deploy.graph.storage import save_onnx
from hvt_deploy.runtime.tensorrt.audit import audit_layers

WEIGHTS = 192 * 64 + 2 * 64 * 64  # of stem, fc1 and fc2


@pytest.fixture
def net(tmp_path):
    """An INT8 graph and the graph in the place of its FP16 one, for batches of 1 to 8 images."""
    folder, config = workspace(tmp_path, QUANTIZED)
    add_fp16(folder)
    return folder, with_flags(config, {"engine.profiles": [(1, 4, 8)]})


def add_fp16(folder):
    with folder.staging() as staged:
        path = staged / "net.fp16.onnx"
        save_onnx(graph(PLAIN), path)
        folder.add(folder.read(), "fp16", staged, path.name, "again")


def test_int8_is_counted_next_to_fp16_at_opt(net):
    folder, config = net
    (cost,) = build_from_graph(folder, config, "int8", SilentUi()).costs
    assert (cost.batch, cost.own.batch, cost.fp16.batch) == (4, 4, 4)
    assert "a second build, for batch 4 only" in cost.note
    assert sum(cost.own.whole.macs.__dict__.values()) == 4 * WEIGHTS
    assert cost.own.whole.weights["int8"] >= 2 * 64 * 64
    assert cost.fp16.whole.weight_bytes >= 4 * WEIGHTS  # this one is FP32
    assert cost.traffic_ratio == cost.own.whole.traffic_bytes / cost.fp16.whole.traffic_bytes
    assert set(folder.read().engines) == {"engine-int8-rtx-sm86-b1-4-8"}  # FP16 was not kept
    assert not list(folder.path.glob("**/cost.engine"))
    check_traffic("e", (cost,), cost.traffic_ratio)
    with pytest.raises(CheckFailed, match=r"moves 0\.\d+ times the bytes of FP16 at batch 4"):
        check_traffic("e", (cost,), cost.traffic_ratio - 0.001)
    for unknown in (
        replace(cost, fp16=Skipped("", "lost")),
        replace(cost, own=Skipped("", "lost")),
    ):
        with pytest.raises(CheckFailed, match=r"is unknown: lost\. The engine was kept"):
            check_traffic("e", (cost, unknown), 100)


def test_fp16_is_that_of_its_engine_where_there_is_one(net, monkeypatch):
    folder, config = net
    fp16 = build_from_graph(folder, config, "fp16", SilentUi())
    assert fp16.costs[0].fp16 is None
    built = []
    monkeypatch.setattr(
        engine_costs, "find_cost", lambda plan, *_: built.append(plan.onnx.name) or Skipped("", "")
    )
    (cost,) = build_from_graph(folder, config, "int8", SilentUi()).costs
    assert cost.fp16 == fp16.costs[0].own
    assert built == ["net.int8.onnx"]
    other = with_flags(config, {"engine.profiles": [(1, 2, 8)]})
    build_from_graph(folder, other, "int8", SilentUi())
    assert built[1:] == ["net.int8.onnx", "net.fp16.onnx"]  # that engine has another profile
    add_fp16(folder)  # the engine is of the same file still
    with folder.staging() as staged:
        save_onnx(graph(PLAIN.replace("Relu", "Abs")), staged / "net.fp16.onnx")
        folder.add(folder.read(), "fp16", staged, "net.fp16.onnx", "again")
    build_from_graph(folder, config, "int8", SilentUi(), force=True)
    assert built[3:] == ["net.int8.onnx", "net.fp16.onnx"]  # that engine is stale


def test_a_build_for_the_cost_that_fails_leaves_the_engine(net, monkeypatch):
    folder, config = net

    def fail(plan, batch, progress):
        raise ToolFailure("no such kernel")

    monkeypatch.setattr(engine_costs, "find_cost", fail)
    (cost,) = build_from_graph(folder, config, "int8", SilentUi()).costs
    assert "[-1, " in cost.own.why
    assert "no such kernel" in cost.own.why
    assert cost.fp16 == Skipped("engine cost", "no such kernel")
    assert "engine-int8-rtx-sm86-b1-4-8" in folder.read().engines


def test_profiles_of_one_batch_size_need_no_second_build(net, monkeypatch):
    folder, config = net
    monkeypatch.setattr(engine_costs, "find_cost", None)
    profiles = {"engine.profiles": [(2, 2, 2), (1, 1, 1)]}
    costs = build_from_graph(folder, with_flags(config, profiles), "fp16", SilentUi()).costs
    assert [cost.own.batch for cost in costs] == [2, 1]
    assert costs[0].own.whole.activation_bytes == 2 * costs[1].own.whole.activation_bytes
    assert [cost.note for cost in costs] == ["", ""]


def test_last_line_names_both_precisions_and_json_has_both(tmp_path, monkeypatch):
    folder, _ = workspace(tmp_path, QUANTIZED)
    add_fp16(folder)
    monkeypatch.setattr("hvt_deploy.commands.quantize.quantize", lambda *_: None)
    wanted = ("net", "--int8", "--profile", "4,4,4")
    done = command_line(tmp_path, *wanted, "--max-traffic", "0.01", "--json")
    assert done.exit_code == 1
    assert "engine-int8-rtx-sm86-b4-4-4" in folder.read().engines
    record = json.loads(done.stdout)
    assert "expected at most 0.01. The engine was kept." in record["error"]
    assert record["costs"][0]["fp16"]["whole"]["kernels"] == 3
    done = command_line(tmp_path, *wanted, "--max-traffic", "1")
    assert done.exit_code == 0
    last = done.stdout.splitlines()[-1]
    assert last.startswith("INT8: 6 kernels, ")
    assert "; FP16: 3 kernels, " in last
    assert "(activations + weights, batch 4). INT8 moves " in last
    assert "in 100 % more kernels; only the device shows whether it is faster." in last
    assert command_line(tmp_path, "net", "--fp16", "--max-traffic", "1").exit_code == 2


def test_share_of_all_macs_is_another_gate_than_that_of_the_quantized_ones(tmp_path, monkeypatch):
    """The stem, 12 288 of the MACs, has no Q/DQ."""
    workspace(tmp_path, QUANTIZED)
    monkeypatch.setattr("hvt_deploy.commands.quantize.quantize", lambda *_: None)
    whole = FC1 + FC2 + 192 * 64
    share = (FC1 + FC2) / whole
    wanted = ("net", "--int8", "--profile", "4,4,4", "--min-int8", "1")
    assert command_line(tmp_path, *wanted, "--min-int8-of-all", str(share - 0.001)).exit_code == 0
    done = command_line(tmp_path, *wanted, "--min-int8-of-all", str(share + 0.001), "--json")
    assert done.exit_code == 1
    record = json.loads(done.stdout)
    assert f"{share:.2%} of all MACs" in record["error"]
    assert command_line(tmp_path, "net", "--fp16", "--min-int8-of-all", "0.5").exit_code == 2
    assert command_line(tmp_path, *wanted, "--min-int8-of-all", "nan").exit_code == 2
    with pytest.raises(CheckFailed, match="are not known"):
        check_int8_of_all("e", audit_layers(()), 0)


def test_without_fp16_its_cost_is_unknown_and_passes_no_gate(tmp_path):
    folder, config = workspace(tmp_path, QUANTIZED)
    (cost,) = build_from_graph(folder, config, "int8", SilentUi()).costs
    assert isinstance(cost.own, EngineCost)
    assert "hvt-deploy quantize net --fp16" in cost.fp16.why
    with pytest.raises(CheckFailed, match="there is no FP16 graph"):
        check_traffic("e", (cost,), 100)
