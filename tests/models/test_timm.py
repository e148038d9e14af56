"""timm's models through our doors: their own transform, weights and classifiers, and a graph that is the same."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.data import create_transform, resolve_data_config

from hvt_deploy.errors import BadInput
from hvt_deploy.images import preprocess
from hvt_deploy.models import create_model, get_spec, load_checkpoint, to_deployed
from hvt_deploy.models.registry import spec_of

SMALL = "timm:pvt_v2_b0"


@pytest.mark.parametrize("name", ["pvt_v2_b0", "fastvit_t8", "efficientvit_b0", "swin_tiny_patch4_window7_224"])
def test_the_transform_is_timms_own(name) -> None:
    from PIL import Image

    image = Image.effect_noise((301, 260), 80).convert("RGB")
    configuration = resolve_data_config({}, pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
    expected = create_transform(**configuration, is_training=False)(image)
    assert torch.equal(torch.from_numpy(preprocess(image, get_spec(f"timm:{name}").preprocessing)), expected)


@pytest.mark.parametrize("name", ["timm:fastvit_t8", "timm:repvit_m1", SMALL])
def test_the_deployed_form_is_the_same_function_without_branches_of_training(name) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=7).double()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    deployed = to_deployed(model)
    images = torch.randn(2, 3, *spec_of(model).image_size, dtype=torch.float64)
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


@pytest.mark.parametrize(("name", "head"), [(SMALL, "head"), ("timm:fastvit_t8", "head.fc")])
def test_a_fine_tuned_checkpoint_brings_its_classes(tmp_path, name, head) -> None:
    torch.manual_seed(1)
    tuned = timm.create_model(name.removeprefix("timm:"), num_classes=5)
    torch.save({"state_dict": tuned.state_dict()}, tmp_path / "tuned.pth")
    model = create_model(name)
    assert spec_of(model).head == head
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
