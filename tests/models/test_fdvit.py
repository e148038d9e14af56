from __future__ import annotations

import pytest
import torch

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.tensors import Signature
from hvt_deploy.graph.analysis.roles import find_role
from hvt_deploy.graph.contract import check_contract
from hvt_deploy.graph.storage import load_onnx
from hvt_deploy.models import create_model, to_deployed
from hvt_deploy.models.fdvit.deployed import DeployedFDViT
from hvt_deploy.models.layers import align_corners_matrix


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def deviation(value: torch.Tensor, reference: torch.Tensor) -> float:
    return ((value - reference).abs().max() / reference.abs().max()).item()


def test_deployed_form_has_no_decoders_and_follows_the_dtype() -> None:
    deployed = to_deployed(create_model("fdvit_demo"))
    assert isinstance(deployed, DeployedFDViT)
    assert not any("decoder" in name for name, _ in deployed.named_modules())
    with torch.no_grad():
        assert (
            deployed.double()(torch.rand(1, 3, 32, 32, dtype=torch.float64)).dtype == torch.float64
        )
        assert deployed.half()(torch.rand(1, 3, 32, 32).half()).dtype == torch.float16


def test_exported_graph_keeps_the_contract_and_every_product_has_a_role(exported_graph) -> None:
    graph = load_onnx(exported_graph("fdvit_demo"))
    model = create_model("fdvit_demo")
    norms = sum(isinstance(module, torch.nn.LayerNorm) for module in to_deployed(model).modules())
    signature = Signature(model.hvt_spec.image_size, model.num_classes)
    report = check_contract(graph, opset=17, signature=signature, layer_norms=norms)
    assert norms == 16
    assert not {"Shape", "Expand", "Resize", "Attention", "Pad"} & set(report.ops)
    # Conv, MatMul and Gemm: 6 blocks of 7, 3 pools of 2, the stem and the head.
    roles = [
        find_role(node, ())
        for node in graph.graph.node
        if node.op_type in ("Conv", "MatMul", "Gemm")
    ]
    counts = {role: roles.count(role) for role in set(roles)}
    in_blocks = (
        "qkv",
        "attention score",
        "attention value",
        "local position",
        "proj",
        "fc1",
        "fc2",
    )
    assert counts == dict.fromkeys(in_blocks, 6) | {
        "resample": 3,
        "downsample": 3,
        "stem": 1,
        "head": 1,
    }


def test_train_mode_returns_the_auto_encoder_pairs() -> None:
    torch.manual_seed(5)
    model = create_model("fdvit_demo")
    inputs = torch.randn(2, 3, 32, 32)
    eval_logits = model(inputs)
    logits, pairs = model.train()(inputs)
    assert deviation(logits, eval_logits) <= 1e-6, "masks must not reach the logits"
    assert [tuple(target.shape) for target, _ in pairs] == [
        (2, 32, 15, 15),
        (2, 48, 11, 11),
        (2, 60, 8, 8),
    ]
    assert all(target.shape == reconstruction.shape for target, reconstruction in pairs)
    sum(torch.nn.functional.mse_loss(r, t) for t, r in pairs).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.decoders.parameters())
    with torch.no_grad():
        (_, first), (_, second) = model(inputs)[1][0], model(inputs)[1][0]
    assert not torch.equal(first, second), "each pass draws its own mask"


def test_a_foreign_module_cannot_be_deployed() -> None:
    with pytest.raises(BadInput, match="Linear is not a model"):
        to_deployed(torch.nn.Linear(2, 2))
    with pytest.raises(BadInput, match="not the reference form"):
        to_deployed(to_deployed(create_model("fdvit_demo")))


@pytest.mark.parametrize(
    ("source", "target"), [(27, 19), (31, 22), (11, 8), (4, 9), (5, 5), (3, 1), (1, 3)]
)
def test_align_corners_matrix_is_torch_interpolation(source: int, target: int) -> None:
    rows = torch.rand(2, 3, source, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(rows, target, mode="linear", align_corners=True)
    assert torch.allclose(
        rows @ align_corners_matrix(source, target).T, expected, rtol=0, atol=1e-12
    )
