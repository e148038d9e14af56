"""timm's models through our doors: their own transform, weights and classifiers, and a graph that
is the same.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from timm.data import create_transform, resolve_data_config

from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.tensors import Signature
from hvt_deploy.data.images import preprocess
from hvt_deploy.graph.analysis.roles import PRODUCT_ROLES
from hvt_deploy.graph.opset import convert_opset, read_opset
from hvt_deploy.graph.quantization.fp16 import QDQ_OPSET, to_fp16
from hvt_deploy.graph.quantization.qdq import quantize_int8
from hvt_deploy.graph.quantization.ranges import collect_ranges
from hvt_deploy.graph.simplify import simplify
from hvt_deploy.graph.storage import load_onnx, save_onnx
from hvt_deploy.graph.torch_export import export_onnx
from hvt_deploy.models import create_model, get_spec, load_checkpoint, to_deployed
from hvt_deploy.models.registry import spec_of
from hvt_deploy.models.weights.load import seed_random_weights
from hvt_deploy.runtime.tensorrt.audit import EngineAudit, audit_layers
from hvt_deploy.runtime.tensorrt.build import build_engine
from hvt_deploy.runtime.tensorrt.plan import BuildPlan, Profile

SMALL = "timm:pvt_v2_b0"
# Of each way to build a classifier one; all but the first are too long for the fast tests.
# nextvit_small is not here: its graph is 7e-5 off in float32 with random weights, more than an
# export may be (equal to 1e-13 in float64).
OTHERS = (
    "fastvit_t8",
    "efficientvit_b0",
    "swin_tiny_patch4_window7_224",
    "convnext_atto",
    "deit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "levit_128s",
    "mobilevit_xxs",
    "tiny_vit_5m_224",
    "poolformer_s12",
    "swinv2_cr_tiny_ns_224",
    "coatnet_nano_rw_224",
    "maxvit_tiny_rw_224",
    "twins_pcpvt_small",
    "hiera_tiny_224",
)
EVERY_KIND = [SMALL, *(pytest.param(f"timm:{name}", marks=pytest.mark.slow) for name in OTHERS)]


@pytest.mark.parametrize(
    "name", ["pvt_v2_b0", "fastvit_t8", "efficientvit_b0", "swin_tiny_patch4_window7_224"]
)
def test_the_transform_is_timms_own(name) -> None:
    from PIL import Image

    image = Image.effect_noise((301, 260), 80).convert("RGB")
    configuration = resolve_data_config(
        {}, pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict()
    )
    expected = create_transform(**configuration, is_training=False)(image)
    assert torch.equal(
        torch.from_numpy(preprocess(image, get_spec(f"timm:{name}").preprocessing)), expected
    )


@pytest.mark.parametrize("name", ["timm:fastvit_t8", "timm:repvit_m1", SMALL])
def test_the_deployed_form_is_the_same_function_without_branches_of_training(name) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=7).double()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    deployed = to_deployed(model)
    images = torch.randn(2, 3, 96, 128, dtype=torch.float64)
    with torch.no_grad():
        expected = model(images)
        assert (deployed(images) - expected).abs().max() <= 1e-9 * expected.abs().max()
    fewer = sum(1 for _ in deployed.modules()) < sum(1 for _ in model.modules())
    assert fewer == (name != SMALL)


def test_attention_is_written_out_and_the_switch_is_put_back() -> None:
    from timm.layers import use_fused_attn

    before = use_fused_attn()
    model = create_model(SMALL)
    assert not any(getattr(module, "fused_attn", False) for module in model.modules())
    assert use_fused_attn() == before


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        (SMALL, ("head",)),
        ("timm:fastvit_t8", ("head.fc",)),
        ("timm:levit_128s", ("head.linear", "head_dist.linear")),
        ("timm:deit_tiny_distilled_patch16_224", ("head", "head_dist")),
    ],
)
def test_a_fine_tuned_checkpoint_brings_its_classes(tmp_path, name, heads) -> None:
    torch.manual_seed(1)
    tuned = timm.create_model(name.removeprefix("timm:"), num_classes=5)
    torch.save({"state_dict": tuned.state_dict()}, tmp_path / "tuned.pth")
    model = create_model(name)
    assert spec_of(model).heads == heads
    assert load_checkpoint(model, tmp_path / "tuned.pth").num_classes == 5
    images = torch.randn(1, 3, *spec_of(model).image_size)
    with torch.no_grad():
        assert torch.allclose(model(images), tuned.eval()(images), atol=1e-5)


def test_another_image_size_is_a_model_of_its_own() -> None:
    spec = get_spec("timm:fastvit_t8", image_size=(128, 160))
    assert (spec.image_size, spec.slug) == ((128, 160), "timm-fastvit_t8-128x160")
    assert get_spec("timm:fastvit_t8").slug == "timm-fastvit_t8"
    model = create_model("timm:swin_tiny_patch4_window7_224", image_size=(112, 112), num_classes=3)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 112, 112)).shape == (1, 3)


def test_an_unknown_name_suggests_the_nearest_and_a_model_without_classes_is_refused() -> None:
    with pytest.raises(BadInput) as caught:
        get_spec("timm:efficientvit_b00")
    assert "timm:efficientvit_b0" in caught.value.hint
    with pytest.raises(BadInput, match="no classifier"):
        get_spec("timm:vit_base_patch14_dinov2.lvd142m")


def test_without_timm_the_pip_line_is_given(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingEnvironment, match="'timm'") as caught:
        get_spec(SMALL)
    assert "pip install" in caught.value.hint


def create_seeded(name: str) -> torch.nn.Module:
    model = create_model(name)
    seed_random_weights(model, 0)
    return model


@pytest.fixture(scope="module")
def graph_at(tmp_path_factory) -> Callable[[str, int], Path]:
    """The simplified graph of `create_seeded(name)` at an opset, exported once."""

    @functools.cache
    def export(name: str, opset: int) -> Path:
        path, spec = tmp_path_factory.mktemp("graph") / "model.onnx", get_spec(name)
        signature = Signature(spec.image_size, spec.num_classes)
        graph = export_onnx(to_deployed(create_seeded(name)), signature, opset)
        save_onnx(convert_opset(simplify(graph, "onnxslim"), opset), path)
        return path

    return export


@pytest.mark.parametrize("opset", [17, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", EVERY_KIND)
def test_the_graph_is_the_model_at_every_batch(graph_at, name, opset) -> None:
    model, path = create_seeded(name), graph_at(name, opset)
    assert read_opset(load_onnx(path)) == opset
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        images = torch.randn(
            batch, 3, *get_spec(name).image_size, generator=torch.Generator().manual_seed(batch)
        )
        with torch.no_grad():
            expected = model(images).numpy()
        (logits,) = session.run(None, {"images": images.numpy()})
        assert np.abs(logits - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", EVERY_KIND)
def test_engines_of_both_precisions_are_built(graph_at, tmp_path, name) -> None:
    path = graph_at(name, 17)
    graph, rng = load_onnx(path), np.random.default_rng(0)
    noise = rng.standard_normal((2, 3, *get_spec(name).image_size), dtype=np.float32)
    ranges = collect_ranges(path, [noise], threads=1)
    half = build(to_fp16(graph, ranges).model, tmp_path / "fp16.onnx")
    assert half.layers.fp16 > half.layers.fp32
    graph = convert_opset(graph, QDQ_OPSET)
    quantized = to_fp16(quantize_int8(graph, ranges, PRODUCT_ROLES), ranges).model
    assert build(quantized, tmp_path / "int8.onnx").layers.int8 > 0


def build(graph, path: Path) -> EngineAudit:
    save_onnx(graph, path)
    plan = BuildPlan(
        path, path.with_suffix(".engine"), "tensorrt_rtx", ("8.6",), (Profile(1, 1, 4),), 1024
    )
    return audit_layers(build_engine(plan).layers)
