"""The FP32 graph behind its preprocessing."""

from __future__ import annotations

import shutil

from hvt_deploy.core.manifest import PIXELS, GraphFacts, Manifest
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.graph.opset import read_opset
from hvt_deploy.graph.preprocessing import add_preprocessing
from hvt_deploy.graph.storage import load_onnx, save_onnx


def add_pixels_graph(folder: ModelFolder, manifest: Manifest) -> Manifest:
    """Add the FP32 graph behind its preprocessing, not committed yet.

    `validate` measures the difference that makes.
    """
    fp32 = manifest.artifacts["fp32"]
    source = folder.file(fp32)
    with folder.staging() as staged:
        graph = add_preprocessing(load_onnx(source, weights=False), manifest.preprocessing)
        path = staged / f"{folder.slug}.{PIXELS}.onnx"
        for name in fp32.files:
            if name != fp32.main:  # weights, which the graph names; onnx refuses links to them
                shutil.copyfile(source.with_name(name), staged / name)
        save_onnx(graph, path)
        return folder.add(
            manifest,
            PIXELS,
            staged,
            path.name,
            f"{fp32.remake} --preprocess-in-graph",
            facts=GraphFacts("fp32", read_opset(graph), len(graph.graph.node)),
            parents=("fp32",),
            commit=False,
        )
