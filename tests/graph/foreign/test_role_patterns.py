"""Roles of networks that others exported, whatever names are left of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxslim
import pytest
from foreign_files import forget_names, make_swin, make_vit, write_dynamo, write_legacy
from onnx import numpy_helper

from hvt_deploy.graph.analysis.roles import find_role, stage_of
from hvt_deploy.graph.foreign.interface import read_foreign
from hvt_deploy.graph.foreign.names import name_foreign_nodes
from hvt_deploy.graph.foreign.role_patterns import name_linears, name_roles
from hvt_deploy.graph.simplify import simplify

# Products by role, of make_swin and make_vit.
SWIN = {
    "stem": 1, "qkv": 3, "attention score": 3, "attention value": 3, "proj": 3, "fc1": 3, "fc2": 3,
    "downsample": 1, "head": 1,
}  # fmt: skip
VIT = {
    "stem": 1, "qkv": 2, "attention score": 2, "attention value": 2, "proj": 2, "fc1": 2, "fc2": 2,
    "head": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Each file with the roles of its products."""
    folder = tmp_path_factory.mktemp("files")
    swin = write_legacy(make_swin(), folder / "swin.onnx")
    vit = write_dynamo(make_vit(), folder / "vit.onnx")
    slim, bare = folder / "slim.onnx", folder / "bare.onnx"
    onnx.save(onnxslim.slim(onnx.load(vit)), slim)
    onnx.save(forget_names(onnx.load(vit)), bare)
    old = write_legacy(make_vit(), folder / "old.onnx", batch=1, opset=14)
    return {
        "legacy swin": (swin, SWIN),
        "dynamo vit": (vit, VIT),
        "slimmed vit": (slim, VIT),
        "vit without names": (bare, VIT),
        "old vit of one batch size": (old, VIT),
    }


@pytest.mark.parametrize(
    "kind",
    ["legacy swin", "dynamo vit", "slimmed vit", "vit without names", "old vit of one batch size"],
)
def test_every_product_has_its_role_and_blocks_are_stages(files, kind):
    path, expected = files[kind]
    graph = name_roles(simplify(name_foreign_nodes(read_foreign(path)), "onnxslim")).graph
    constants = {tensor.name for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    assert Counter(find_role(node, constants) for node in products) == expected
    stages = Counter(stage_of(n.name) for n in products if find_role(n, constants) == "fc1")
    assert sorted(stages.values()) == ([1, 2] if expected is SWIN else [1, 1])
    if kind in ("legacy swin", "dynamo vit"):
        module = "features.3.1.attn" if expected is SWIN else "encoder.layers.encoder_layer_1"
        assert any(node.name.startswith(f"{module}.") for node in products)
    adds = Counter(find_role(node, constants) for node in graph.node if node.op_type == "Add")
    assert adds["residual add"] == 2 * expected["qkv"]
    assert adds["position bias"] >= 1


def test_convolutions_that_weigh_channels_are_no_mlp_whatever_their_names_say(tmp_path):
    """As torchvision's SqueezeExcitation names them: fc1 and fc2."""
    from torch import nn
    from torchvision.ops import SqueezeExcitation

    convolution = nn.Conv2d(3, 8, 3, padding=1)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 7))
    path = write_legacy(
        nn.Sequential(convolution, SqueezeExcitation(8, 4), *pooled), tmp_path / "excite.onnx"
    )
    graph = name_roles(simplify(name_foreign_nodes(read_foreign(path)), "onnxslim")).graph
    constants = {tensor.name for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    roles = Counter(find_role(node, constants) for node in products)
    assert roles == {"stem": 1, "squeeze excite": 2, "head": 1}


@pytest.mark.parametrize("last", ["linear", "convolution"])
def test_a_head_is_found_behind_or_before_the_average(tmp_path, last):
    from torch import nn

    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    tail = [*pooled, nn.Linear(8, 7)] if last == "linear" else [nn.Conv2d(8, 7, 1), *pooled]
    layers = (nn.Conv2d(3, 8, 4, 4), nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), *tail)
    path = write_legacy(nn.Sequential(*layers), tmp_path / "tail.onnx")
    graph = name_roles(simplify(name_foreign_nodes(read_foreign(path)), "onnxslim")).graph
    constants = {tensor.name for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    assert [find_role(node, constants) for node in products] == ["stem", "conv", "head"]


def test_a_squeeze_and_excite_is_no_mlp(tmp_path):
    from torch import nn

    class Excite(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 7)
            self.squeeze = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8), nn.Sigmoid())

        def forward(self, images):
            maps = self.stem(images)
            scale = self.squeeze(maps.mean((2, 3)))
            return self.head((maps * scale[:, :, None, None]).mean((2, 3)))

    path = write_legacy(Excite().eval(), tmp_path / "excite.onnx")
    graph = name_roles(simplify(name_foreign_nodes(read_foreign(path)), "onnxslim")).graph
    constants = {tensor.name for tensor in graph.initializer}
    found = Counter(find_role(n, constants) for n in graph.node if n.op_type in ("Gemm", "MatMul"))
    assert found == {"squeeze excite": 2, "head": 1}


def test_linears_whose_modules_have_other_names_get_their_role():
    """As in LeViT: `mlp.ln1` and `mlp.ln2`, and two heads that are averaged."""
    names = {
        "a": "blocks.0.mlp.ln1/MatMul", "b": "blocks.0.mlp.ln1/Add", "d": "blocks.0.mlp.ln2/MatMul",
        "e": "blocks.0/Add", "f": "fc/Gemm", "g": "fc_dist/Gemm", "logits": "model/Mul",
    }  # fmt: skip
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]>
        g (float[N, 4] images) => (float[N, 4] logits) {
        a = MatMul (images, v) b = Add (a, bias) c = HardSwish (b) d = MatMul (c, w)
        e = Add (images, d) f = Gemm (e, x) g = Gemm (e, y) h = Add (f, g)
        logits = Mul (h, half) }"""
    )
    shapes = {**dict.fromkeys("vwxy", (4, 4)), "bias": (4,), "half": ()}
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    for node in model.graph.node:
        node.name = names.get(node.output[0], f"model/{node.op_type}")
    graph = name_linears(model).graph
    constants = {tensor.name for tensor in graph.initializer}
    found = {node.output[0]: find_role(node, constants) for node in graph.node}
    roles = {"a": "fc1", "b": "fc1", "d": "fc2", "e": "residual add", "f": "head", "g": "head"}
    assert {name: found[name] for name in roles} == roles
    assert [n.name for n in graph.node if n.output[0] in ("a", "e")] == [
        "blocks.0.mlp.ln1.fc1/MatMul",
        "blocks.0/Add",
    ]
