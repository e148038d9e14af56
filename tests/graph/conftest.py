"""The demo's FDViT as an FP32 graph with seeded weights, images for it and its ranges on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hvt_deploy.core.tensors import Signature
from hvt_deploy.graph.opset import convert_opset
from hvt_deploy.graph.quantization.ranges import collect_ranges
from hvt_deploy.graph.simplify import simplify
from hvt_deploy.graph.storage import save_onnx
from hvt_deploy.graph.torch_export import export_onnx
from hvt_deploy.models import create_model, to_deployed
from hvt_deploy.models.weights.load import seed_random_weights


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(0).standard_normal((8, 3, 32, 32), dtype=np.float32)


@pytest.fixture(scope="session")
def fp32():
    model = create_model("fdvit_demo")
    seed_random_weights(model, 5)
    signature = Signature(model.spec.image_size, model.num_classes)
    with torch.no_grad():
        return convert_opset(
            simplify(export_onnx(to_deployed(model), signature, 17), "onnxslim"), 17
        )


@pytest.fixture(scope="session")
def ranges(fp32, images, tmp_path_factory):
    path = tmp_path_factory.mktemp("fp32") / "m.onnx"
    save_onnx(fp32, path)
    return collect_ranges(path, [images[:4], images[4:]], threads=1)
