"""TensorRT on a pretended GPU, by importing this module.

GPU_CHECK_MODEL names the model, STANDIN_TENSORRT the version (10.13.3.9 if unset). The stand-in's
engines compute with ONNX Runtime on the graph that they were built from. STANDIN_WRONG names a
precision whose engine is wrong by one percent: its check has to fail.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import onnxruntime
from fake_tensorrt import FakeTensorRT, World

from hvt_deploy.models.registry import get_spec
from hvt_deploy.runtime.tensorrt import build, build_process


class GraphWorld(World):
    """Its engines are the paths of the graphs that they were built from."""

    def serialize(self, onnx: Path) -> bytes:
        return str(onnx).encode()

    def format_of(self, engine: bytes) -> str:
        return "Int8" if engine.endswith(b".int8.onnx") else "Half"

    def expected(self, images: np.ndarray, engine: bytes = b"engine") -> np.ndarray:
        path = engine.decode().replace(".int8.onnx", ".int8-fp32.onnx")
        session = open_session(path)
        (logits,) = session.run(None, {session.get_inputs()[0].name: images})
        wrong = f".{os.environ.get('STANDIN_WRONG')}."
        return logits * (1.01 if wrong in path else 1.0)


@cache
def open_session(path: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run_here(module: str, job: build.BuildPlan, takes: object) -> None:
    """Builds of the stand-in cannot run in a child process, which would not have it."""
    if job.flavour == "tensorrt":
        build_process.carry_out(job)
    else:
        run_in_child(module, job, takes)


def install() -> None:
    spec = get_spec(os.environ["GPU_CHECK_MODEL"])
    world = GraphWorld(
        os.environ.get("STANDIN_TENSORRT", "10.13.3.9"),
        image=(3, *spec.image_size),
        classes=spec.num_classes,
        ranges=((1, 1, 1), (1, 8, 32)),
    )
    tensorrt = FakeTensorRT(world)
    tensorrt.__spec__ = ModuleSpec("tensorrt", None)
    sys.modules["tensorrt"] = tensorrt


run_in_child = build.run_in_child
build.run_in_child = run_here
install()
