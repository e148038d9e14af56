"""Graphs through real ONNX Runtime, and how far their results are apart."""

from __future__ import annotations

import numpy as np
import onnxruntime


def run(model, images, name="images", optimize=True):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {name: images})[0]


def sqnr(reference, candidate):
    return 10 * np.log10(np.square(reference).sum() / np.square(reference - candidate).sum())
