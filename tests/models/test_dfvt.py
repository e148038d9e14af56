from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.tensors import Signature
from hvt_deploy.graph.analysis.roles import find_role
from hvt_deploy.graph.contract import check_contract
from hvt_deploy.graph.opset import convert_opset
from hvt_deploy.graph.quantization.fp16 import to_fp16
from hvt_deploy.graph.simplify import simplify
from hvt_deploy.graph.torch_export import export_onnx
from hvt_deploy.models import create_model, get_spec, to_deployed
from hvt_deploy.models.dfvt.deployed import DeployedDFvT, DeployedSelect
from hvt_deploy.models.dfvt.model import (
    DFvTSelect,
    WindowAttention,
    relative_position_index,
    shift_mask,
    space_to_depth,
    window_order,
)
from hvt_deploy.models.golden_check import draw_images, fill_parameters
from hvt_deploy.models.weights.load import load_model
from hvt_deploy.runtime.tensorrt.audit import audit_layers
from hvt_deploy.runtime.tensorrt.build import build_engine
from hvt_deploy.runtime.tensorrt.plan import BuildPlan, Profile


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny() -> tuple[DeployedDFvT, onnx.ModelProto]:
    """dfvt_tiny with the rule's weights, and its simplified graph at opset 17."""
    model = create_model("dfvt_tiny")
    fill_parameters(model, "public-1")
    deployed = to_deployed(model)
    graph = simplify(export_onnx(deployed, Signature((224, 224), 1000), 18), "onnxslim")
    return deployed, convert_opset(graph, 17)


@pytest.mark.parametrize(("side", "window", "shift"), [(28, 7, 3), (14, 7, 3), (8, 4, 2)])
def test_shifted_windows_attend_to_neighbours_only(side: int, window: int, shift: int) -> None:
    positions = window_order(side, window, shift).reshape(-1, window**2)
    assert sorted(positions.reshape(-1).tolist()) == list(range(side * side))
    rows, columns = positions // side, positions % side
    # Rolling wraps around the border: two tokens of a window belong together where they were that
    # near before.
    near = ((rows[:, :, None] - rows[:, None]).abs() < window) & (
        (columns[:, :, None] - columns[:, None]).abs() < window
    )
    mask = shift_mask(side, window, shift)
    assert torch.equal(mask, torch.where(near, 0.0, -100.0))
    assert mask.any()
    assert not mask[0].any(), "the first window lies within the map"


def test_position_bias_depends_on_the_offset_alone() -> None:
    index = relative_position_index(7)
    # The documented index: (dy + 6) * 13 + dx + 6, query minus key.
    assert index[0, 0] == index[48, 48] == 6 * 13 + 6
    assert (index[48, 0], index[0, 48], index[1, 0], index[7, 0]) == (
        168,
        0,
        6 * 13 + 7,
        7 * 13 + 6,
    )
    assert index.unique().numel() == 13 * 13


def test_space_to_depth_takes_the_parities_column_by_column() -> None:
    pixels = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat(3, 3)[None, None]
    parts = space_to_depth(torch.cat([pixels, pixels + 10], dim=1))
    assert parts.shape == (1, 8, 3, 3)
    assert parts[0, :, 0, 0].tolist() == [0, 10, 2, 12, 1, 11, 3, 13]


def test_an_open_gate_lets_only_the_local_features_through() -> None:
    select = DFvTSelect(32).double()
    tokens, local = torch.randn(2, 2, 9, 32, dtype=torch.float64).unbind(0)
    nn.init.zeros_(select.fc_channel[3].weight)
    nn.init.ones_(select.fc_spatial[1].weight)
    for form in (select, DeployedSelect(select)):
        norm = form.spatial if isinstance(form, DeployedSelect) else form.fc_spatial[0]
        for bias, expected in ((100.0, local), (-100.0, tokens)):
            nn.init.constant_(norm.bias, bias)
            with torch.no_grad():
                assert torch.allclose(form(tokens, local), expected, rtol=0, atol=1e-12)


def test_shifted_blocks_are_where_the_map_is_larger_than_a_window() -> None:
    shifted = {
        name: [
            path
            for path, m in create_model(name).named_modules()
            if isinstance(m, WindowAttention) and m.shift
        ]
        for name in ("dfvt_tiny", "dfvt_base", "dfvt_demo")
    }
    base = ["layers.0.blocks.1.attn", "layers.1.blocks.1.attn"]
    assert shifted == {"dfvt_tiny": [], "dfvt_base": base, "dfvt_demo": base[:1]}


def test_the_exported_graph_keeps_the_contract(tiny) -> None:
    deployed, graph = tiny
    norms = sum(isinstance(module, nn.LayerNorm) for module in deployed.modules())
    report = check_contract(
        graph, opset=17, signature=Signature((224, 224), 1000), layer_norms=norms
    )
    assert not {"BatchNormalization", "Expand", "Pad", "Slice", "Concat"} & set(report.ops)
    roles = [find_role(node, ()) for node in graph.graph.node if node.op_type != "Add"]
    in_blocks = ("qkv", "attention score", "attention value", "proj", "fc1", "fc2", "softmax")
    assert {role: roles.count(role) for role in in_blocks} == dict.fromkeys(in_blocks, 5)
    assert (roles.count("stem"), roles.count("downsample"), roles.count("head")) == (2, 3, 1)


def test_the_graph_is_right_for_batches_it_was_not_made_with(tiny) -> None:
    # The official code's export is wrong here without a word: logits are off by 3.7 at batch 3.
    deployed, graph = tiny
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for batch in (1, 3):
        inputs = draw_images("batch", (batch, 3, 224, 224))
        with torch.no_grad():
            expected = deployed(inputs).numpy()
        (logits,) = session.run(None, {"images": inputs.numpy()})
        assert np.abs(logits - expected).max() <= 1e-4


def test_shifted_windows_survive_the_export(exported, tmp_path: Path) -> None:
    folder = exported(tmp_path, "dfvt_demo")
    stored = folder.read().artifacts
    model, _ = load_model(get_spec("dfvt_demo"), folder.file(stored["pytorch"]), 10)
    session = onnxruntime.InferenceSession(
        folder.file(stored["fp32"]), providers=["CPUExecutionProvider"]
    )
    inputs = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model(inputs).numpy()
    (logits,) = session.run(None, {"images": inputs.numpy()})
    assert np.abs(logits - expected).max() <= 1e-5


def test_every_attention_block_is_one_kernel_in_an_engine(tiny, tmp_path: Path) -> None:
    _, graph = tiny
    onnx.save(to_fp16(graph, None).model, tmp_path / "tiny.onnx")
    profiles = (Profile(1, 8, 32),)
    plan = BuildPlan(
        tmp_path / "tiny.onnx", tmp_path / "tiny.engine", "tensorrt_rtx", ("8.6",), profiles, 512
    )
    audit = audit_layers(build_engine(plan).layers)
    assert audit.fused_attention == sum(get_spec("dfvt_tiny").architecture.depths)
    assert audit.kernels <= 103
    # One for each space to depth: q, k and v are read where their product wrote them.
    assert audit.reformats <= 4


def test_only_the_reference_form_can_be_deployed() -> None:
    with pytest.raises(BadInput, match="not the reference form of a DFvT"):
        to_deployed(to_deployed(create_model("dfvt_demo")))
