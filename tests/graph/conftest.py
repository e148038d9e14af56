"""The demo's FDViT as an FP32 graph, images for it and its ranges on them."""

from __future__ import annotations

import numpy as np
import pytest

from hvt_deploy.graph.quantization.ranges import collect_ranges
from hvt_deploy.graph.storage import load_onnx


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(0).standard_normal((8, 3, 32, 32), dtype=np.float32)


@pytest.fixture(scope="session")
def fp32_path(exported_graph):
    return exported_graph("fdvit_demo")


@pytest.fixture(scope="session")
def fp32(fp32_path):
    return load_onnx(fp32_path)


@pytest.fixture(scope="session")
def ranges(fp32_path, images):
    return collect_ranges(fp32_path, [images[:4], images[4:]], threads=1)
