"""Roles and stages of nodes: what INT8 is decided by."""

from __future__ import annotations

import pytest
from onnx import helper

from hvt_deploy.graph.analysis.roles import find_group, find_role, stage_of

WEIGHT = "w"


def node(name, *, constant=True, group=1):
    op = name.rpartition("/")[2].split("_")[0]
    attributes = {"group": group} if op == "Conv" else {}
    return helper.make_node(op, ["x", WEIGHT if constant else "y"], ["z"], name, **attributes)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("patch_embed.conv/Conv", "stem"),
        ("transformers.1.blocks.0.attn.qkv/MatMul", "qkv"),
        ("transformers.1.blocks.0.attn.qkv/Add", "qkv"),
        ("transformers.1.blocks.0.attn.proj/Gemm", "proj"),
        ("transformers.1.blocks.0.mlp.fc2/MatMul_1", "fc2"),
        ("transformers.1.blocks.0.mlp.fc1/Add", "fc1"),
        ("transformers.1.blocks.0.mlp.act/Add", "activation"),
        ("model/Add", "position bias"),
        ("layers.1.blocks.0.attn/Add", "position bias"),
        ("levels.2.blocks.0.hat_attn/Add", "position bias"),
        ("levels.2.blocks.0/Add", "position bias"),
        ("pools.0.conv/Conv", "downsample"),
        ("stages.1.downsample.proj/Conv", "downsample"),
        ("stages.0.blocks.0.attn.kv/MatMul", "qkv"),
        ("stages.2.blocks.1.context_module.main.qkv.conv/Conv", "qkv"),
        ("stages.2.blocks.1.context_module.main.proj.norm/Conv", "proj"),
        ("levels.0.blocks.1.conv2/Conv", "conv"),
        ("levels.0.downsample.reduction.0/Conv", "downsample"),
        ("levels.2.blocks.0.hat_attn.qkv/MatMul", "carrier token"),
        ("levels.2.blocks.0.hat_mlp.fc1/MatMul", "carrier token"),
        ("layers.0.blocks.0.select.fc_channel.3/MatMul", "squeeze excite"),
        ("final_conv.se.fc1/Conv", "squeeze excite"),
        ("convlayers.0.conv1x1_1.0/Conv", "conv"),
        ("head/Gemm", "head"),
        ("norm/LayerNormalization", "norm"),
    ],
)
def test_nodes_with_a_constant(name, role):
    assert find_role(node(name), {WEIGHT}) == role


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("transformers.1.blocks.0.attn.score/MatMul", "attention score"),
        ("transformers.1.blocks.0.attn.value/MatMul", "attention value"),
        ("stages.0.blocks.0.attn/MatMul", "attention score"),
        ("stages.0.blocks.0.attn/MatMul_1", "attention value"),
        ("stages.2.blocks.1.context_module.main/MatMul_1", "attention value"),
        ("transformers.1.blocks.0.attn/Add", "local position"),
        ("transformers.1.blocks.0/Add", "residual add"),
        ("levels.2.propagation/Add", "carrier token"),
        ("pools.0.resample/MatMul", "resample"),
        ("layers.0.blocks.0.attn.softmax/Softmax", "softmax"),
        ("layers.0.blocks.0.select/Add", "other"),
        ("stem.res1/Add", "residual add"),
        ("patch_embed/Add", "other"),
    ],
)
def test_nodes_of_two_activations(name, role):
    assert find_role(node(name, constant=False), {WEIGHT}) == role


@pytest.mark.parametrize(("group", "role"), [(1, "conv"), (2, "depthwise"), (8, "depthwise")])
def test_convolutions_of_two_groups_or_more_are_depthwise(group, role):
    assert find_role(node("convlayers.0.conv1.0/Conv", group=group), {WEIGHT}) == role


def test_depthwise_convolutions_have_their_own_role():
    assert find_role(node("convlayers.0.conv1.0/Conv", group=8), {WEIGHT}) == "depthwise"
    assert (
        find_role(node("levels.2.global_tokenizer.pos_embed/Conv", group=8), {WEIGHT})
        == "depthwise"
    )
    assert find_role(node("blocks.0.attn.get_v/Conv", group=8), {WEIGHT}) == "local position"


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("patch_embed.conv/Conv", "stem"),
        ("model/Add", "stem"),
        ("transformers.1.blocks.0.attn.qkv/MatMul", "1"),
        ("pools.1.conv/Conv", "1"),
        ("levels.3.blocks.4.mlp.fc1/MatMul", "3"),
        ("convlayers.2.conv1.0/Conv", "2"),
        ("blocks.11.mlp.fc1/MatMul", "11"),
        ("norm/LayerNormalization", "head"),
        ("head/Gemm", "head"),
        ("layer1.0.conv1/Conv", "1"),
        ("one.0.to_qkv.qkv/MatMul", "one.0"),
        ("net.body.3.ff.0.fc1/MatMul", "body.3"),
        ("classifier.2.head/Gemm", "head"),
        ("inp.0.stem/Conv", "stem"),
    ],
)
def test_stages(name, stage):
    assert stage_of(name) == stage


def test_a_group_is_a_stage_and_a_role():
    assert find_group(node("levels.3.blocks.4.mlp.fc1/MatMul"), {WEIGHT}) == "3/fc1"
