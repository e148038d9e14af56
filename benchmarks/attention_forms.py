"""Kernels and memory traffic of forms of attention: python benchmarks/attention_forms.py.

Three plain transformer blocks of hvt_s_1's sizes (196 tokens, 384 channels, 6 heads) in each form,
seeded random weights with biases, as FP16 and with INT8 Linears, built by TensorRT-RTX for compute
capability 8.6 at batch 8: kernels, those that only move data, MiB of activations read and written.
FP16 graphs are converted as the product does it, so one product that is cut between heads becomes
three where that is possible (`graph.split_products`). Needs no GPU; two minutes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from einops import rearrange
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.records import RESULTS, Record, describe_conditions, format_table, write_record
from hvt_deploy.core.tensors import Signature
from hvt_deploy.core.types import Skipped
from hvt_deploy.graph.opset import convert_opset
from hvt_deploy.graph.quantization.fp16 import QDQ_OPSET, to_fp16
from hvt_deploy.graph.quantization.qdq import quantize_int8
from hvt_deploy.graph.quantization.ranges import collect_ranges
from hvt_deploy.graph.simplify import simplify
from hvt_deploy.graph.storage import save_onnx
from hvt_deploy.graph.torch_export import export_onnx
from hvt_deploy.models.layers import Mlp
from hvt_deploy.runtime.tensorrt.cost import find_cost
from hvt_deploy.runtime.tensorrt.plan import BuildPlan

CHANNELS, HEADS, BLOCKS, BATCH, SIZE = 384, 6, 3, 8, (224, 224)
LINEARS = ("qkv", "proj", "fc1", "fc2")
# Name: order of the axes of tokens, products, biases.
FORMS: Mapping[str, tuple[str, str, str]] = {
    "one product with bias, heads transposed and then cut": ("b n", "one", "bias"),
    "one product with bias, cut and then transposed": ("b n", "cut", "bias"),
    "one product with bias, q, k and v of a head side by side": ("b n", "by head", "bias"),
    "three products with biases": ("b n", "three", "bias"),
    "three products without biases": ("b n", "three", ""),
    "one product without bias, heads transposed and then cut": ("b n", "one", ""),
    "tokens first, one product with bias": ("n b", "one", "bias"),
    "tokens first, three products with biases": ("n b", "three", "bias"),
    "tokens first, three products, q's bias added to its heads": ("n b", "three", "q bias"),
    "tokens first, q, k and v of a head side by side, no bias": ("n b", "by head", ""),
    "tokens first, one product without bias, cut and then transposed": ("n b", "cut", ""),
    "tokens first, three products without biases": ("n b", "three", ""),
    "tokens first, one product without bias (the deployed form)": ("n b", "one", ""),
}


class FormOfAttention(nn.Module):
    """Attention over tokens whose axes are `order` and channels."""

    def __init__(self, order: str, products: str, biases: str) -> None:
        super().__init__()
        self.order, self.products, biased = order, products, biases == "bias"
        parts = 3 if products == "three" else 1
        self.qkv = nn.ModuleList(
            nn.Linear(CHANNELS, 3 * CHANNELS // parts, biased) for _ in range(parts)
        )
        self.q_bias = nn.Parameter(torch.zeros(HEADS, 1, CHANNELS // HEADS))
        self.adds_q_bias = biases == "q bias"
        self.proj = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens to tokens."""
        made = [product(tokens) for product in self.qkv]
        if self.products == "cut":
            made = list(made[0].chunk(3, dim=2))
        heads = [self._to_heads(part) for part in made]
        if self.products == "one":
            heads = list(heads[0].chunk(3, dim=1))
        elif self.products == "by head":
            heads = list(heads[0].chunk(3, dim=3))
        q, k, v = heads
        if self.adds_q_bias:
            q = q + self.q_bias
        mixed = (q @ k.transpose(2, 3)).softmax(dim=3) @ v
        return self.proj(rearrange(mixed, f"b e n d -> {self.order} (e d)"))

    def _to_heads(self, part: Tensor) -> Tensor:
        heads = 3 * HEADS if self.products == "one" else HEADS
        return rearrange(part, f"{self.order} (e d) -> b e n d", e=heads)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, order: str, products: str, biases: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(CHANNELS), nn.LayerNorm(CHANNELS)
        self.attn, self.mlp = FormOfAttention(order, products, biases), Mlp(CHANNELS, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens to tokens."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class PlainTransformer(nn.Module):
    """Images to logits through blocks of one form."""

    def __init__(self, order: str, products: str, biases: str) -> None:
        super().__init__()
        self.order = order
        self.patch_embed = nn.Conv2d(3, CHANNELS, 16, 16)
        self.blocks = nn.Sequential(*(Block(order, products, biases) for _ in range(BLOCKS)))
        self.norm, self.head = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, 10)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images (B, 3, 224, 224) to logits (B, 10)."""
        order = self.order.replace("n", "(h w)")
        tokens = rearrange(self.patch_embed(images_NCHW), f"b c h w -> {order} c")
        return self.head(self.norm(self.blocks(tokens)).mean(dim=self.order.split().index("n")))


def measure_form(order: str, products: str, biases: str) -> Record:
    """Kernels and traffic of a form in FP16 and with INT8 Linears."""
    torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]
    model = PlainTransformer(order, products, biases)
    for parameter in model.parameters():  # no bias may be zero, or it is simplified away
        parameter.data.add_(0.02 * torch.randn(parameter.shape))
    exported = export_onnx(model, Signature(SIZE, 10), QDQ_OPSET)
    graph = convert_opset(simplify(exported, "onnxslim"), QDQ_OPSET)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "form.onnx"
        save_onnx(graph, path)
        noise = np.random.default_rng(0).standard_normal((2, 3, *SIZE), dtype=np.float32)
        ranges = collect_ranges(path, [noise], threads=1)
        int8 = quantize_int8(graph, ranges, LINEARS)
        return {"fp16": _count(graph, path), "int8": _count(int8, path)}


def _count(graph: onnx.ModelProto, path: Path) -> Record:
    save_onnx(to_fp16(graph, None).model, path)
    plan = BuildPlan(path, path.with_suffix(".engine"), "tensorrt_rtx", ("8.6",), (), 512)
    cost = find_cost(plan, BATCH)
    if isinstance(cost, Skipped):
        raise SystemExit(cost.why)
    whole = cost.whole
    return {
        "kernels": whole.kernels,
        "moves_only": whole.moves_only,
        "activation_mib": round(whole.activation_bytes / 2**20, 1),
    }


def main() -> None:
    """Measure every form and write record and table."""
    rows: dict[str, Record] = {}
    for name, form in FORMS.items():
        print(name, file=sys.stderr, flush=True)
        rows[name] = measure_form(*form)
    output = RESULTS / "attention_forms.json"
    write_record(output, {**describe_conditions("attention_forms.py"), "forms": rows})
    heads = ("form", *(f"{p} {w}" for p in ("FP16", "INT8") for w in ("kernels", "moves", "MiB")))
    lines = format_table(
        heads,
        (
            [name, *(str(v) for p in ("fp16", "int8") for v in r[p].values())]
            for name, r in rows.items()
        ),
    )
    note = (
        f"{BLOCKS} plain blocks, 196 tokens, {CHANNELS} channels, {HEADS} heads, batch {BATCH}, "
        "TensorRT-RTX for SM86, by `python benchmarks/attention_forms.py`.\n"
        "Kernels, those that only move data, MiB of activations read and written; INT8: Linears, "
        "FP16 in the rest.\n"
    )
    text = f"# Forms of attention\n\n{note}\n" + "\n".join(lines) + "\n"
    output.with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
