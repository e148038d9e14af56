"""A linear layer as an ONNX file, the images it takes and the logits it gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK, Signature
from hvt_deploy.core.types import Device
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.variant import Variant

K, H, W = 5, 6, 4
RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((K, 3 * H * W)).astype(np.float32)
BIAS = RNG.standard_normal(K).astype(np.float32)


def save_graph(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    batch: int | str = "batch",
    output_type: int = TensorProto.FLOAT,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, H, W])],
        [helper.make_tensor_value_info("logits", output_type, [batch, K])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def linear(path: Path, batch: int | str = "batch", half: bool = False) -> Path:
    kind, dtype = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["cast"], to=kind),
        helper.make_node("Gemm", ["cast", "weight", "bias"], ["logits"], transB=1),
    ]
    return save_graph(
        path, nodes, {"weight": WEIGHT.astype(dtype), "bias": BIAS.astype(dtype)}, batch, kind
    )


def expected(images_NCHW: ImagesNCHW) -> LogitsNK:
    return images_NCHW.reshape(len(images_NCHW), -1) @ WEIGHT.T + BIAS


def images(batch: int) -> ImagesNCHW:
    return np.random.default_rng(batch).standard_normal((batch, 3, H, W)).astype(np.float32)


def request(
    path: Path, device: Device = "cpu", batch: int | None = None, classes: int = K
) -> BackendRequest:
    return BackendRequest(
        Variant("ort", device, "fp32"),
        path,
        "tiny",
        Signature((H, W), classes, batch),
        threads=1,
    )
