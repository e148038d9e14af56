"""Properties of every model of every family: official results, keys, figures, and the deployed
form.
"""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from forms import deviation, scatter
from golden.official_facts import read_facts
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hvt_deploy.models import create_model, get_spec, list_specs, to_deployed
from hvt_deploy.models.golden_check import Golden, check_golden, list_goldens
from hvt_deploy.models.registry import family_of
from hvt_deploy.models.spec import ModelSpec

NAMED = list_specs()
OFFICIAL = [spec.name for spec in NAMED if not spec.is_demo]
# The models of solar cells are those of the digits in other sizes.
DEMOS = [
    pytest.param(spec.name, marks=[pytest.mark.slow] if spec.checkpoint.trained else [])
    for spec in NAMED
    if spec.is_demo
]
# Above this many multiply-accumulates of one record a check takes longer than the fast tests may.
FAST_MACS = 4e9
# These few are always checked: the other fast ones of FasterViT have a single window and no carrier
# tokens.
ALWAYS = {
    ("faster_vit_0_224", "default"),
    ("faster_vit_0_any_res", "rect_112x224"),
    ("faster_vit_0_any_res", "rect_224x448"),
    ("faster_vit_0_any_res", "square_padded_256x256"),
    ("faster_vit_0_any_res", "ct1_rect_224x448"),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def cost(spec: ModelSpec, golden: Golden) -> float:
    """Multiply-accumulates of a record, and its parameters to draw."""
    assert spec.measured is not None
    batch, _, height, width = golden.input
    share = height * width / (spec.image_size[0] * spec.image_size[1])
    return batch * share * spec.measured.macs + 30 * spec.measured.params


def records() -> list[object]:
    found = []
    for spec in NAMED:
        if spec.name in OFFICIAL:
            for golden in list_goldens(spec.name):
                slow = cost(spec, golden) > FAST_MACS and (spec.name, golden.name) not in ALWAYS
                marks = [pytest.mark.slow] if slow else []
                found.append(
                    pytest.param(spec.name, golden, id=f"{spec.name}-{golden.name}", marks=marks)
                )
    return found


@pytest.mark.parametrize(("name", "golden"), records())
def test_both_forms_give_the_official_logits(name: str, golden: Golden) -> None:
    for form in ("reference", "deployed"):
        result = check_golden(name, golden, form)
        gc.collect()
        assert result.passed, result


@pytest.mark.parametrize("name", OFFICIAL)
def test_key_names_and_shapes_are_the_official_ones(name: str) -> None:
    recorded = read_facts(name)
    with torch.device("meta"):
        model = create_model(name)
    family = family_of(model)
    wanted = {
        key: shape
        for key, shape in recorded["state_dict"].items()
        if not key.endswith(family.recomputed_suffixes) and key not in recorded["aliases"]
    }
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == wanted


@pytest.mark.parametrize("name", [spec.name for spec in NAMED])
def test_measured_figures_are_those_of_the_reference_form(name: str) -> None:
    spec = get_spec(name)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = create_model(name)
        model(torch.empty(1, 3, *spec.image_size))
    unused = family_of(model).train_only_prefixes
    params = sum(p.numel() for key, p in model.named_parameters() if not key.startswith(unused))
    assert spec.measured is not None
    assert (spec.measured.params, spec.measured.macs) == (params, counter.get_total_flops() // 2)


@pytest.mark.parametrize("name", DEMOS)
def test_the_deployed_form_is_the_same_function(name: str) -> None:
    torch.manual_seed(3)
    model = create_model(name, num_classes=7).double()
    scatter(model)
    images = torch.randn(3, 3, *get_spec(name).image_size, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    deployed = to_deployed(model)
    with torch.no_grad():
        logits = model(images)
        assert deviation(deployed(images), logits) <= 1e-9
        alone = torch.cat([deployed(image[None]) for image in images])
    assert deviation(alone, logits) <= 1e-9, "images of a batch must not influence each other"
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    shared = {t.data_ptr() for t in model.state_dict().values()} & {
        t.data_ptr() for t in deployed.state_dict().values()
    }
    assert not shared, "the deployed form must not share memory with its reference"
    assert not deployed.training
    assert not any(isinstance(module, nn.BatchNorm2d) for module in deployed.modules())
    assert not any("cpb_mlp" in key or key.startswith("decoders.") for key in deployed.state_dict())


@pytest.mark.parametrize("name", DEMOS)
def test_no_classes_gives_the_pooled_features(name: str) -> None:
    model = create_model(name, num_classes=0)
    images = torch.randn(2, 3, *get_spec(name).image_size)
    with torch.no_grad():
        features = model(images)
        assert features.ndim == 2
        assert deviation(to_deployed(model)(images), features) <= 1e-5


@pytest.mark.parametrize("name", DEMOS)
def test_the_forms_compute_in_the_dtype_of_their_weights(name: str) -> None:
    model = create_model(name).double()
    images = torch.randn(1, 3, *get_spec(name).image_size, dtype=torch.float64)
    with torch.no_grad():
        assert model(images).dtype == torch.float64
        assert to_deployed(model)(images).dtype == torch.float64
        assert to_deployed(model).half()(images.half()).dtype == torch.float16
