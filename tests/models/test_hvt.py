from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from hvt_deploy.errors import BadInput
from hvt_deploy.graph.contract import check_contract
from hvt_deploy.graph.export import export_onnx
from hvt_deploy.models import create_model, get_spec, to_deployed
from hvt_deploy.models.specs.hvt import HVTArchitecture
from hvt_deploy.steps.config import config_of
from hvt_deploy.tensors import Signature

OWN = {
    "input_size": 64, "patch_size": 8, "num_heads": 2, "num_blocks": 4, "pool_kernel_size": 3, "pool_stride": 2,
    "pool_block_width": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "counts"),
    [("hvt_s_0", {196}), ("hvt_s_1", {196, 97}), ("hvt_s_3", {196, 97, 48, 23}), ("hvt_s_4", {196, 97, 48, 23, 11})],
)
def test_token_counts_are_the_papers(name: str, counts: set[int]) -> None:
    architecture = get_spec(name).architecture
    assert isinstance(architecture, HVTArchitecture)
    assert set(architecture.token_counts) == counts


def test_the_exported_graph_keeps_the_contract_and_pools_in_two_dimensions() -> None:
    deployed = to_deployed(create_model("hvt_demo"))
    signature = Signature((32, 32), 10)
    graph = export_onnx(deployed, signature, 18)
    norms = sum(isinstance(module, torch.nn.LayerNorm) for module in deployed.modules())
    report = check_contract(graph, opset=18, signature=signature, layer_norms=norms)
    assert report.ops["MaxPool"] == 2
    assert all(
        len(a.ints) == 2
        for node in graph.graph.node if node.op_type == "MaxPool"
        for a in node.attribute if a.name == "kernel_shape"
    )  # fmt: skip


def test_an_own_configuration_makes_a_model(tmp_path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(OWN))
    model = create_model(str(tmp_path / "mine.json"), num_classes=7).double()
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        logits, deployed = model(images), to_deployed(model)(images)
    assert logits.shape == (2, 7)
    assert (logits - deployed).abs().max() <= 1e-9 * logits.abs().max()
    assert model.state_dict()["blocks.2.pos_embed"].shape == (1, 15, 128)


def test_an_own_configuration_is_kept_in_the_runs_configuration(tmp_path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(OWN))
    config = config_of(str(tmp_path / "mine.json"))
    (tmp_path / "mine.json").unlink()
    again = get_spec(config.model, config.preprocessing.image_size, config.options)
    assert again.architecture == HVTArchitecture(64, 8, 2, 4, 2, 3)
    assert dataclasses.asdict(again.preprocessing) == dataclasses.asdict(config.preprocessing)


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"pool_stride": 3}, "pool_stride is 3", "trained with 2"),
        ({"input_size": 65}, "not a multiple of patch_size 8", "64 and 72"),
        ({"num_heads": 0}, "below 1", "positive"),
        ({"pool_block_width": 1, "num_blocks": 12}, "leaves no token", "pool_block_width"),
        ({"heads": 3}, "unknown key 'heads'", "num_heads"),
        ({"num_blocks": "12"}, "expected int", ""),
    ],
)
def test_a_wrong_configuration_says_the_rule(tmp_path, change, message, hint) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(OWN | change))
    with pytest.raises(BadInput) as caught:
        create_model(str(tmp_path / "mine.json"))
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_missing_or_damaged_configuration_is_named(tmp_path) -> None:
    with pytest.raises(BadInput, match="no configuration file"):
        create_model(str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(BadInput, match="not JSON"):
        create_model(str(tmp_path / "bad.json"))
