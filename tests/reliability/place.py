"""The place of every trial: a model with all it can have, and the long computations of the verbs
replaced by quick ones that write the same files.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from command_line import run
from exports import copy_model
from PIL import Image

from hvt_deploy.commands import build_trt, engine_costs, find_recipe, graph_export
from hvt_deploy.core.manifest import GraphFacts
from hvt_deploy.core.types import Skipped
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.data import digits
from hvt_deploy.evaluation import latency, timing
from hvt_deploy.evaluation.report import cost_plot, pareto, plots, svg
from hvt_deploy.graph.analysis.node_facts import read_facts
from hvt_deploy.graph.contract import ContractReport
from hvt_deploy.graph.quantization import calibration
from hvt_deploy.graph.storage import load_onnx
from hvt_deploy.runtime.tensorrt.build import BuildOutcome
from hvt_deploy.runtime.tensorrt.flavours import FlavourInfo
from hvt_deploy.runtime.tensorrt.layer_list import EngineLayer
from hvt_deploy.runtime.tensorrt.layer_tensors import LayerTensor

MODEL = "artifacts/hvt_demo"
INT8 = ("--int8", "--calib", "calibration", "--calib-images", 4, "--calibrator", "max")
QUANTIZE = ("quantize", *INT8, "--no-smooth-quant", "--no-bias-correction")
VALIDATE = ("validate", "--data", "validation", "--threads", 1)

_prove_parity = graph_export.prove_parity
_build_engine, _find_cost = build_trt.build_engine, engine_costs.find_cost
_DRAWING = (cost_plot, pareto, plots)
_measure_latency = latency.measure_latency
# `demo` writes each of its images by a step of its own.
_FEW_DIGITS = {"train": 10, "calibration": 20, "validation": 20}


def build_quickly(plan, progress=None):
    """An engine without a program in it, all of whose layers are INT8."""
    plan.engine.write_bytes(b"engine of " + plan.onnx.name.encode())
    read, written = (LayerTensor("x", "Int8", (4,)),), (LayerTensor("y", "Half", (4,)),)
    facts = read_facts(load_onnx(plan.onnx, weights=False))
    layers = tuple(EngineLayer(one.name, "gemm", read, written, (one.name,)) for one in facts)
    return BuildOutcome(plan.engine, FlavourInfo(plan.flavour, "1.7.1.116"), layers, 1.0)


def draw_again() -> None:
    """From now on plots are drawn, by Matplotlib, which writes files of its own."""
    for module in _DRAWING:
        module.draw_svg = svg.draw_svg


def prove_parity_again() -> None:
    """From now on `export` proves parity."""
    graph_export.prove_parity = _prove_parity


def build_again() -> None:
    """From now on engines are built, by TensorRT-RTX, and their cost is counted."""
    build_trt.build_engine, engine_costs.find_cost = _build_engine, _find_cost


def skip_cost(plan, batch, progress=None):
    return Skipped("engine cost", "not counted in a test of reliability")


def measure_quickly(bound, batch, **options):
    found = _measure_latency(bound, batch, **{**options, "budget_s": 0.02})
    return {name: replace(one, stable=True) for name, one in found.items()}


def shorten_computations() -> None:
    """From now on engines are built without a TensorRT, latencies measured in no time, the first
    calibration is the best, and reports have plots without lines.
    """
    for module in _DRAWING:
        module.draw_svg = lambda *_: "<svg/>"
    find_recipe.draw_budget = lambda _: "<svg/>"
    calibration._judge_candidates = lambda _, plain, *__: plain
    build_trt.build_engine = build_quickly
    engine_costs.find_cost = skip_cost
    timing.measure_latency = measure_quickly
    latency._WARMUP_MS, latency._WINDOW_MS = 0.1, 0.1
    os.environ["CXX"] = "no-compiler-in-tests"


def shorten_exports(folder: ModelFolder) -> None:
    """From now on `export` writes the graph of `folder`, and takes its parity for proven."""
    manifest = folder.read()
    graph, facts = folder.file(manifest.artifacts["fp32"]), manifest.facts("fp32", GraphFacts)
    content = graph.read_bytes()

    def write_graph(spec, reference_path, path: Path, *_):
        path.write_bytes(content)
        return ContractReport(facts.nodes, facts.ops, ())

    graph_export._write_graph = write_graph
    graph_export.prove_parity = lambda *_: facts.parity
    digits.SPLIT_SIZES = _FEW_DIGITS


def prepare(place: Path, exports: Path) -> None:
    """A model with everything: graphs, an engine, two validations, a reference, a bundle.

    `exports` is the folder of exported models that tests share.
    """
    place.mkdir()
    write_images(place)
    (place / "tmp").mkdir()
    (place / "notes.txt").write_text("mine")
    copy_model(exports, place / "artifacts", "hvt_demo")
    (place / MODEL / "notes.txt").write_text("mine")
    verbs = (QUANTIZE, ("build-trt", "--int8"), VALIDATE, (*VALIDATE, "--record"), ("bundle",))
    for verb in (*verbs, ("config", "--all", "configs")):
        done = run(*verb, cwd=place)
        if done.returncode:
            raise RuntimeError(done.stderr)
    (place / "report.html").write_text("<html>of yesterday</html>")


def write_images(folder: Path) -> None:
    """`validation` and `calibration`: images of ten classes, none in both."""
    rng = np.random.default_rng(0)
    for split, size in (("validation", 2), ("calibration", 3)):
        for label in range(10):
            (folder / split / str(label)).mkdir(parents=True)
            for i in range(size):
                pixels = rng.integers(0, 256, (32, 32), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / str(label) / f"{i}.png")


def link_tree(source: Path, target: Path) -> None:
    """A copy of a folder whose files are those of `source` until they are replaced."""
    shutil.copytree(source, target, copy_function=os.link, symlinks=True)
