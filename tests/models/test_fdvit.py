from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from golden.weight_rule import facts, fill, goldens, images
from torch.utils.flop_counter import FlopCounterMode

from hvt_deploy.errors import BadInput
from hvt_deploy.graph.contract import check_contract
from hvt_deploy.graph.export import export_onnx
from hvt_deploy.graph.roles import role_of
from hvt_deploy.models import create_model, get_spec, to_deployed
from hvt_deploy.models.fdvit import DeployedFDViT
from hvt_deploy.models.layers import align_corners_matrix
from hvt_deploy.tensors import Signature

OFFICIAL = ("fdvit_ti", "fdvit_s", "fdvit_b")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def deviation(value: torch.Tensor, reference: torch.Tensor) -> float:
    return ((value - reference).abs().max() / reference.abs().max()).item()


@pytest.mark.parametrize("name", OFFICIAL)
def test_golden_logits_in_both_forms(name: str) -> None:
    for golden in goldens(name):
        model = create_model(name)
        fill(model, golden.salt)
        model.double()
        with torch.no_grad():
            inputs = images(golden.salt, golden.input).double()
            logits = model(inputs)
            assert deviation(to_deployed(model)(inputs), logits) <= 1e-9
        values = logits.numpy()
        expected = np.asarray(golden.logits_first32)
        assert np.all(np.abs(values[:, :32] - expected) <= 1e-6 * np.maximum(1, np.abs(expected)))
        assert values.argmax(axis=1).tolist() == golden.argmax
        for got, wanted in (
            (values.mean(axis=1), golden.mean),
            (values.std(axis=1), golden.std),
            (np.linalg.norm(values, axis=1), golden.l2),
        ):
            assert np.all(np.abs(got - wanted) <= 1e-6 * np.maximum(1, np.abs(wanted)))


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_key_names_and_shapes(name: str) -> None:
    state = create_model(name).state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == facts(name)["state_dict"]


@pytest.mark.parametrize("name", [*OFFICIAL, "fdvit_demo"])
def test_spec_states_measured_figures(name: str) -> None:
    spec, model = get_spec(name), create_model(name)
    used = sum(p.numel() for key, p in model.named_parameters() if not key.startswith("decoders."))
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model.to("meta")(torch.empty(1, 3, *spec.image_size))
    assert (spec.measured.params, spec.measured.macs) == (used, counter.get_total_flops() // 2)
    if name in OFFICIAL:
        recorded = facts(name)["measured"]
        assert spec.measured.params == recorded["params_used_at_inference"]
        assert spec.measured.macs / 1e9 == pytest.approx(recorded["macs_g"], abs=5e-5)


@pytest.mark.parametrize("name", ["fdvit_ti", "fdvit_demo"])
def test_deployed_form_equals_reference_with_random_weights(name: str) -> None:
    torch.manual_seed(3)
    model = create_model(name, num_classes=7).double()
    inputs = torch.randn(3, 3, *model.image_size, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    deployed = to_deployed(model)
    with torch.no_grad():
        assert deviation(deployed(inputs), model(inputs)) <= 1e-9
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not deployed.training
    assert (deployed.name, deployed.num_classes, deployed.image_size) == (name, 7, model.image_size)
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in deployed.parameters()}
    assert not shared, "the deployed form must not share memory with its reference"


def test_deployed_form_has_no_decoders_and_follows_the_dtype() -> None:
    deployed = to_deployed(create_model("fdvit_demo"))
    assert isinstance(deployed, DeployedFDViT)
    assert not any("decoder" in name for name, _ in deployed.named_modules())
    with torch.no_grad():
        assert deployed.double()(torch.rand(1, 3, 32, 32, dtype=torch.float64)).dtype == torch.float64
        assert deployed.half()(torch.rand(1, 3, 32, 32).half()).dtype == torch.float16


def test_exported_graph_keeps_the_contract_and_every_product_has_a_role() -> None:
    torch.manual_seed(6)
    deployed = to_deployed(create_model("fdvit_ti"))
    signature = Signature(deployed.image_size, deployed.num_classes)
    graph = export_onnx(deployed, signature, 18)
    norms = sum(isinstance(module, torch.nn.LayerNorm) for module in deployed.modules())
    report = check_contract(graph, opset=18, signature=signature, layer_norms=norms)
    assert norms == 29
    assert not {"Shape", "Expand", "Resize", "Attention", "Pad"} & set(report.ops)
    # Conv, MatMul and Gemm: 12 blocks of 7, 4 pools of 2, the stem and the head.
    roles = [
        role_of(node.name, node.op_type) for node in graph.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")
    ]
    counts = {role: roles.count(role) for role in set(roles)}
    in_blocks = ("qkv", "attention score", "attention value", "local position", "proj", "fc1", "fc2")
    assert counts == dict.fromkeys(in_blocks, 12) | {"resample": 4, "downsample": 4, "stem": 1, "head": 1}


def test_images_of_a_batch_do_not_influence_each_other() -> None:
    torch.manual_seed(4)
    model = create_model("fdvit_demo").double()
    inputs = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        together = model(inputs)
        alone = torch.cat([model(image[None]) for image in inputs])
    assert deviation(alone, together) <= 1e-12


def test_train_mode_returns_the_auto_encoder_pairs() -> None:
    torch.manual_seed(5)
    model = create_model("fdvit_demo")
    inputs = torch.randn(2, 3, 32, 32)
    eval_logits = model(inputs)
    logits, pairs = model.train()(inputs)
    assert deviation(logits, eval_logits) <= 1e-6, "masks must not reach the logits"
    assert [tuple(target.shape) for target, _ in pairs] == [(2, 32, 15, 15), (2, 48, 11, 11), (2, 60, 8, 8)]
    assert all(target.shape == reconstruction.shape for target, reconstruction in pairs)
    sum(torch.nn.functional.mse_loss(r, t) for t, r in pairs).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.decoders.parameters())
    with torch.no_grad():
        (_, first), (_, second) = model(inputs)[1][0], model(inputs)[1][0]
    assert not torch.equal(first, second), "each pass draws its own mask"


def test_no_classes_gives_features() -> None:
    model = create_model("fdvit_demo", num_classes=0)
    inputs = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert model(inputs).shape == (1, 96)
        assert deviation(to_deployed(model)(inputs), model(inputs)) <= 1e-5


def test_a_foreign_module_cannot_be_deployed() -> None:
    with pytest.raises(BadInput, match="Linear is not a model"):
        to_deployed(torch.nn.Linear(2, 2))
    with pytest.raises(BadInput, match="not the reference form"):
        to_deployed(to_deployed(create_model("fdvit_demo")))


@pytest.mark.parametrize(("source", "target"), [(27, 19), (31, 22), (11, 8), (4, 9), (5, 5), (3, 1), (1, 3)])
def test_align_corners_matrix_is_torch_interpolation(source: int, target: int) -> None:
    rows = torch.rand(2, 3, source, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(rows, target, mode="linear", align_corners=True)
    assert torch.allclose(rows @ align_corners_matrix(source, target).T, expected, rtol=0, atol=1e-12)
