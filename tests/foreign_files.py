"""ONNX files as other exporters write them, of small networks of torchvision, and damaged ones."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models.swin_transformer import SwinTransformer


def make_swin() -> nn.Module:
    return draw(SwinTransformer([4, 4], 16, [1, 2], [2, 2], [4, 4], num_classes=7))


def make_vit() -> nn.Module:
    return draw(VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=7))


def draw(model: nn.Module) -> nn.Module:
    """Biases that no exporter merges, and a head that is not zero."""
    generator = torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 1 or not parameter.any():
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def write_legacy(
    model: nn.Module, path: Path, batch: int | None = None, opset: int = 17, side: int = 32
) -> Path:
    """As torch.onnx.export wrote it before dynamo; names are `/encoder/layers/.../MatMul`."""
    axes = None if batch else {"input": {0: "n"}, "output": {0: "n"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.randn(batch or 2, 3, side, side),),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes=axes,
        )
    return path


def write_dynamo(model: nn.Module, path: Path, side: int = 32) -> Path:
    """As torch.onnx.export writes it today; module paths are in the metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.randn(2, 3, side, side),),
            path,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    return path


def forget_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network without a name that tells anything."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    ends = {v.name for v in (*bare.graph.input, *bare.graph.output)}
    new: dict[str, str] = {}
    for tensor in bare.graph.initializer:
        tensor.name = new.setdefault(tensor.name, f"t{len(new)}")
    for node in bare.graph.node:
        node.name = ""
        del node.metadata_props[:]
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name and name not in ends:
                    names[i] = new.setdefault(name, f"t{len(new)}")
    del bare.graph.value_info[:]
    return bare


POOLED = (
    helper.make_node("GlobalAveragePool", ["x"], ["p"]),
    helper.make_node("Flatten", ["p"], ["f"]),
)
LAST = helper.make_node("MatMul", ["f", "w"], ["y"])
WEIGHT = numpy_helper.from_array(np.arange(15, dtype=np.float32).reshape(3, 5), "w")


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


IMAGES, LOGITS = value("x", ["n", 3, 8, 8]), value("y", ["n", 5])


def write_graph(
    path: Path, nodes=(*POOLED, LAST), images=(IMAGES,), logits=(LOGITS,), constants=(), domain=""
) -> Path:
    """A file with these nodes; the default is a classifier of 8x8 images."""
    graph = helper.make_graph(nodes, "g", images, logits, [WEIGHT, *constants])
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path
