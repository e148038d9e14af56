"""Attention, norms and masks as people write them themselves reach INT8 as timm's do."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest
from exports import prove_parity_here

import hvt_deploy
from hvt_deploy.graph.analysis.roles import find_role

CODE = """
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))

    def forward(self, x):
        var = x.var(-1, keepdim=True, unbiased=False)
        return (x - x.mean(-1, keepdim=True)) * torch.rsqrt(var + 1e-6) * self.scale + self.shift

class Attention(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.norm, self.lin_in, self.lin_out = Norm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.mask = mask

    def forward(self, x):
        q, k, v = self.lin_in(self.norm(x)).reshape(len(x), 16, 2, 12).chunk(3, -1)
        if self.mask is None:
            scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / 2
            y = torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v)
        else:
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))
            y = scaled_dot_product_attention(q, k, v, attn_mask=self.mask).transpose(1, 2)
        return x + self.lin_out(y.reshape(len(x), 16, 8))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        near = torch.arange(16)
        near = (near[:, None] - near[None]).abs() < 4
        masks = (None, near, torch.ones_like(near))
        self.stem, self.body = nn.Conv2d(3, 8, 4, 4), nn.ModuleList(map(Attention, masks))
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, images):
        x = self.stem(images).flatten(2).transpose(1, 2)
        for block in self.body:
            x = block(x)
        return self.last(x.transpose(1, 2).reshape(len(x), 8, 4, 4)).mean((2, 3))

def make():
    torch.manual_seed(0)
    return Net()
"""


@pytest.mark.parametrize("simplifier", ["onnxslim", "none"])
def test_an_own_network_has_the_forms_that_int8_knows(tmp_path, monkeypatch, simplifier):
    (tmp_path / f"forms_{simplifier}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    prove_parity_here()
    model = hvt_deploy.export(
        f"forms_{simplifier}:make", image_size=(16, 16), simplifier=simplifier
    )
    graph = onnx.load(model.exported.path).graph
    ops = Counter(node.op_type for node in graph.node)
    assert ops["LayerNormalization"] == 3
    assert not {"Einsum", "IsNaN", "Where", "Shape", "Expand", "Sqrt"} & ops.keys()
    constants = {tensor.name for tensor in graph.initializer}
    expected = ("qkv", "attention score", "attention value", "proj", "stem", "head")
    products = [node for node in graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    roles = Counter(find_role(node, constants) for node in products)
    assert [roles[role] for role in expected] == [3, 3, 3, 3, 1, 1]
    assert model.exported.parity.sqnr_db > 100
