from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import onnx
import pytest
import torch

from hvt_deploy.commands.config import config_of
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.tensors import Signature
from hvt_deploy.graph.analysis.roles import find_role
from hvt_deploy.graph.contract import check_contract
from hvt_deploy.graph.opset import convert_opset
from hvt_deploy.graph.quantization.fp16 import to_fp16
from hvt_deploy.graph.simplify import simplify
from hvt_deploy.graph.storage import load_onnx
from hvt_deploy.graph.torch_export import export_onnx
from hvt_deploy.models import create_model, get_spec, to_deployed
from hvt_deploy.models.golden_check import fill_parameters
from hvt_deploy.models.hvt.deployed import DeployedBlock, DeployedHVT
from hvt_deploy.models.hvt.model import HVTBlock
from hvt_deploy.models.hvt.spec import HVTArchitecture
from hvt_deploy.runtime.tensorrt.audit import EngineAudit, audit_layers
from hvt_deploy.runtime.tensorrt.build import build_engine
from hvt_deploy.runtime.tensorrt.plan import BuildPlan, Profile

OWN = {
    "input_size": 64,
    "patch_size": 8,
    "num_heads": 2,
    "num_blocks": 4,
    "pool_kernel_size": 3,
    "pool_stride": 2,
    "pool_block_width": 2,
}


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("hvt_s_0", {196}),
        ("hvt_s_1", {196, 97}),
        ("hvt_s_3", {196, 97, 48, 23}),
        ("hvt_s_4", {196, 97, 48, 23, 11}),
    ],
)
def test_token_counts_are_the_papers(name: str, counts: set[int]) -> None:
    architecture = get_spec(name).architecture
    assert isinstance(architecture, HVTArchitecture)
    assert set(architecture.token_counts) == counts


@pytest.fixture(scope="module")
def small() -> tuple[DeployedHVT, onnx.ModelProto]:
    """hvt_s_4 with the rule's weights, and its simplified graph at opset 17."""
    model = create_model("hvt_s_4")
    fill_parameters(model, "public-1")
    deployed = to_deployed(model)
    graph = simplify(export_onnx(deployed, Signature((224, 224), 1000), 18), "onnxslim")
    return deployed, convert_opset(graph, 17)


def test_the_exported_graph_keeps_the_contract_and_every_product_has_a_role(small) -> None:
    deployed, graph = small
    norms = sum(isinstance(module, torch.nn.LayerNorm) for module in deployed.modules())
    report = check_contract(
        graph, opset=17, signature=Signature((224, 224), 1000), layer_norms=norms
    )
    assert norms == 25
    assert not {"MaxPool", "Expand", "Pad", "Concat"} & set(report.ops)
    assert report.ops["Max"] == 4 * 2, "four poolings of three neighbours"
    roles = [
        find_role(node, ())
        for node in graph.graph.node
        if node.op_type in ("Conv", "MatMul", "Gemm")
    ]
    in_blocks = ("qkv", "attention score", "attention value", "proj", "fc1", "fc2")
    assert {role: roles.count(role) for role in set(roles)} == dict.fromkeys(in_blocks, 12) | {
        "stem": 1,
        "head": 1,
    }


def test_an_engine_fuses_all_attention_and_needs_a_third_fewer_kernels_than_the_plain_export(
    exported_graph, tmp_path: Path
) -> None:
    graph, model = load_onnx(exported_graph("hvt_demo")), create_model("hvt_demo")
    plain = simplify(export_onnx(model, Signature(model.hvt_spec.image_size, 10), 18), "onnxslim")
    deployed, reference = (build_fp16(g, tmp_path) for g in (graph, convert_opset(plain, 17)))
    assert deployed.fused_attention == len(model.blocks)
    assert deployed.reformats <= 1, "q, k and v are read where their product wrote them"
    assert deployed.kernels <= 0.7 * reference.kernels


def build_fp16(graph: onnx.ModelProto, folder: Path) -> EngineAudit:
    onnx.save(to_fp16(graph, None).model, folder / "small.onnx")
    plan = BuildPlan(
        folder / "small.onnx",
        folder / "small.engine",
        "tensorrt_rtx",
        ("8.6",),
        (Profile(1, 8, 32),),
        512,
    )
    return audit_layers(build_engine(plan).layers)


@pytest.mark.parametrize(("kernel", "tokens"), [(1, 6), (2, 7), (3, 196), (3, 97), (4, 4), (5, 12)])
def test_pooling_by_slices_is_max_pooling(kernel: int, tokens: int) -> None:
    block = HVTBlock(64, 1, 1, kernel, (tokens - kernel) // 2 + 1).double()
    inputs = torch.randn(2, tokens, 64, dtype=torch.float64)
    with torch.no_grad():
        deployed = DeployedBlock(block)(inputs.transpose(0, 1)).transpose(0, 1)
        assert torch.allclose(deployed, block(inputs), rtol=0, atol=1e-12)


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
        ({"num_heads": 0}, "num_heads: expected 1 to 4096, got 0", ""),
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
