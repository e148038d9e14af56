"""One small trained model of every family: all opsets, and engines whose attention is fused and
whose INT8 is INT8.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from hvt_deploy.commands.build_trt import build_trt
from hvt_deploy.core.run_config import with_flags
from hvt_deploy.core.tensors import Signature
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.data.digits import write_digits
from hvt_deploy.graph.contract import check_contract
from hvt_deploy.graph.opset import SUPPORTED_OPSETS, convert_opset, read_opset
from hvt_deploy.graph.simplify import simplify
from hvt_deploy.graph.storage import save_onnx
from hvt_deploy.graph.torch_export import export_onnx
from hvt_deploy.models import create_model, to_deployed
from hvt_deploy.models.weights.load import seed_random_weights

DEMOS = ["fdvit_demo", "faster_vit_demo", "dfvt_demo", "hvt_demo"]


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits") / "digits").calibration


@pytest.mark.parametrize("name", DEMOS)
def test_engines_fuse_all_attention_and_compute_in_int8(
    name, calibration, exported, tmp_path
) -> None:
    folder = exported(tmp_path, name)
    flags = {
        "calibration.folder": str(calibration),
        "calibration.images": 8,
        "quantization.calibrator": "max",  # which ranges is another matter
        "quantization.recovery": [],
        "engine.flavour": "rtx",
    }
    config = with_flags(folder.read().config, flags)
    nodes = onnx.load(folder.file(folder.read().artifacts["fp32"])).graph.node
    blocks = sum(node.op_type == "Softmax" for node in nodes)
    assert blocks >= 5
    fp16 = build_trt(folder, config, "fp16", SilentUi()).audit
    int8 = build_trt(folder, config, "int8", SilentUi(), min_int8=1.0).audit
    assert fp16.fused_attention == int8.fused_attention == fp16.attention_blocks == blocks
    assert (fp16.layers.int8, fp16.macs.int8, fp16.macs.fp32) == (0, 0, 0)
    int8_attention = config.quantization.int8_attention == "always"
    assert (fp16.int8_attention, int8.int8_attention) == (0, blocks if int8_attention else 0)
    # Each of the Linears of every block that the family has in INT8, at least.
    linears = {"qkv", "proj", "fc1", "fc2"} & {*config.quantization.int8_roles.rtx}
    assert int8.layers.int8 >= len(linears) * blocks >= 3 * blocks
    assert fp16.kernels < len(nodes) / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", DEMOS)
@pytest.mark.parametrize("opset", SUPPORTED_OPSETS)
def test_every_opset_gives_pytorchs_logits(name, opset, tmp_path) -> None:
    model = create_model(name)
    seed_random_weights(model, 0)
    deployed, size = to_deployed(model), model.hvt_spec.image_size
    signature = Signature(size, 10)
    graph = convert_opset(simplify(export_onnx(deployed, signature, opset), "onnxslim"), opset)
    norms = sum(isinstance(module, torch.nn.LayerNorm) for module in deployed.modules())
    check_contract(graph, opset=opset, signature=signature, layer_norms=norms)
    assert read_opset(graph) == opset
    save_onnx(graph, tmp_path / "model.onnx")
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal((3, 3, *size), np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    found = session.run(None, {"images": images})[0]
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()
