from __future__ import annotations

import pytest
import torch
from forms import deviation, scatter

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.tensors import Signature
from hvt_deploy.graph.contract import check_contract
from hvt_deploy.graph.opset import read_opset
from hvt_deploy.graph.storage import load_onnx
from hvt_deploy.graph.torch_export import export_onnx
from hvt_deploy.models import create_model, get_spec, to_deployed


@pytest.mark.parametrize(
    ("size", "below_and_above"),
    [
        ((226, 224), "height 226.*224 and 256"),
        ((224, 230), "width 230.*224 and 256"),
        ((16, 224), "height 16"),
    ],
)
def test_sizes_that_crash_the_official_code_name_the_nearest_that_work(
    size, below_and_above
) -> None:
    first, _, second = below_and_above.partition(".*")
    with pytest.raises(BadInput) as caught:
        get_spec("faster_vit_0_any_res", image_size=size)
    assert first in caught.value.message
    assert second in caught.value.hint
    for side in [
        int(word.strip(".,")) for word in caught.value.hint.split() if word.strip(".,").isdigit()
    ][:2]:
        assert get_spec("faster_vit_0_any_res", image_size=(side, side)).image_size == (side, side)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"window_size": (7, 7)}, "Window sizes 7,7", "four"),
        ({"window_size": (7, 7, 1, 7)}, "Window sizes 7,7,1,7", "2 or more"),
        ({"carrier_token_size": 9}, "carrier-token size is 9", "from 1 to 7"),
        (
            {"image_size": (112, 224), "carrier_token_size": 1},
            "fewer than 4 carrier tokens",
            "--carrier-token-size",
        ),
    ],
)
def test_options_that_do_not_fit_say_the_rule(options, message, hint) -> None:
    with pytest.raises(BadInput) as caught:
        create_model("faster_vit_0_any_res", **options)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_fixed_model_takes_no_other_size_and_names_one_that_does() -> None:
    with pytest.raises(BadInput) as caught:
        create_model("faster_vit_0_224", image_size=(256, 256))
    assert "224x224 images only" in caught.value.message
    assert "faster_vit_0_any_res" in caught.value.hint
    with pytest.raises(BadInput, match="no window"):
        create_model("faster_vit_0_224", carrier_token_size=1)


def test_another_size_is_a_model_and_a_workspace_of_its_own() -> None:
    spec = get_spec("faster_vit_0_any_res", image_size=(224, 448))
    assert (spec.image_size, spec.slug) == ((224, 448), "faster_vit_0_any_res-224x448")
    assert spec.measured is None
    assert get_spec("faster_vit_0_any_res").slug == "faster_vit_0_any_res-576x960"


@pytest.mark.parametrize(("size", "window"), [((64, 96), 2), ((96, 64), 2), ((64, 80), 4)])
def test_the_deployed_form_equals_the_reference_on_grids_that_are_not_square(size, window) -> None:
    torch.manual_seed(1)
    options = {"image_size": size, "window_size": (window,) * 4, "carrier_token_size": 2}
    model = create_model("faster_vit_0_any_res", num_classes=5, **options)
    scatter(model)
    model.double()
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        assert deviation(to_deployed(model)(images), model(images)) <= 1e-9


def attention_kernels(graph, deployed) -> int:
    """The Softmax nodes of a graph that keeps the contract."""
    signature = Signature(deployed.hvt_spec.image_size, deployed.num_classes)
    norms = sum(isinstance(module, torch.nn.LayerNorm) for module in deployed.modules())
    opset = read_opset(graph)
    report = check_contract(graph, opset=opset, signature=signature, layer_norms=norms)
    assert not {"Sigmoid", "BatchNormalization", "Resize", "GatherND"} & set(report.ops)
    return report.ops["Softmax"]


def test_the_exported_graph_has_attention_for_blocks_and_carrier_tokens(exported_graph) -> None:
    deployed = to_deployed(create_model("faster_vit_demo"))
    depths = deployed.hvt_spec.architecture.depths
    graph = load_onnx(exported_graph("faster_vit_demo"))
    assert attention_kernels(graph, deployed) == sum(depths[2:]) + depths[2]


def test_a_single_window_has_no_carrier_tokens() -> None:
    options = {"image_size": (32, 64), "window_size": (4, 4, 4, 4)}
    deployed = to_deployed(create_model("faster_vit_0_any_res", num_classes=10, **options))
    graph = export_onnx(deployed, Signature((32, 64), 10), 18)
    assert attention_kernels(graph, deployed) == sum(deployed.hvt_spec.architecture.depths[2:])
