"""`quantize --budget 2` on solar cells, where margins are poor: the search really runs, and its
promise holds on the test split, on which nobody searched.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from safetensors.torch import load_file, save_file

from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.export import export
from hvt_deploy.commands.find_recipe import quantize_within_budget
from hvt_deploy.commands.train_demo import train_on_elpv
from hvt_deploy.core.environment import ORT_DISABLED_OPTIMIZERS
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.data.elpv import ELPV_CLASSES, write_elpv
from hvt_deploy.data.folders import open_image_folder
from hvt_deploy.data.images import load_batches
from hvt_deploy.evaluation.budget_record import BudgetRequest
from hvt_deploy.evaluation.statistics import tango_interval

pytestmark = pytest.mark.slow
MODEL = "hvt_elpv"
BUDGET = 2.0
PLANTED, GAIN = "blocks.3", 400.0


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return write_elpv(tmp_path_factory.mktemp("elpv") / "cells")


@pytest.fixture(scope="module")
def weights(cells):
    """Trained now where they are not in the cache: minutes."""
    return train_on_elpv(MODEL, cells, SilentUi()).with_suffix(".safetensors")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def exported(folder: Path, cells, weights: Path, **quantization):
    """The model in `folder`, and its configuration."""
    config = config_of(MODEL)
    config = replace(
        config,
        export=replace(config.export, weights=str(weights)),
        calibration=replace(config.calibration, folder=str(cells.calibration), images=128),
        quantization=replace(config.quantization, **quantization),
        engine=replace(config.engine, flavour="tensorrt"),
    )
    model = ModelFolder(folder / "artifacts" / MODEL)
    export(model, config, None, SilentUi())
    return model, config


def drop_on_test(model: ModelFolder, cells):
    """The drop of the engine's numerics against FP32 on the test split, by plain ONNX Runtime."""
    manifest = model.read()
    samples = open_image_folder(cells.test, ELPV_CLASSES, 4).samples
    (batch,) = load_batches(samples, manifest.preprocessing, len(samples), threads=1)
    right = {}
    for key in ("fp32", "int8-fp32"):
        session = onnxruntime.InferenceSession(
            model.open_artifact(manifest, key),
            providers=["CPUExecutionProvider"],
            disabled_optimizers=ORT_DISABLED_OPTIMIZERS,
        )
        parts = np.array_split(batch.images_NCHW, 10)
        logits = np.concatenate([session.run(None, {"images": part})[0] for part in parts])
        right[key] = logits.argmax(axis=1) == batch.labels_N
    assert right["fp32"].mean() > 0.75
    lost = int((right["fp32"] & ~right["int8-fp32"]).sum())
    return tango_interval(lost, int((~right["fp32"] & right["int8-fp32"]).sum()), len(samples))


def test_a_planted_group_is_left_out_and_the_promise_holds(tmp_path, cells, weights):
    state = load_file(weights)
    # The same function: what a LayerNorm enlarges, the weights behind it make small again.
    for part in ("weight", "bias"):
        state[f"{PLANTED}.norm2.{part}"][5] *= GAIN
    state[f"{PLANTED}.mlp.fc1.weight"][:, 5] /= GAIN
    save_file(state, tmp_path / "planted.safetensors")
    model, config = exported(
        tmp_path, cells, tmp_path / "planted.safetensors", calibrator="max", recovery=()
    )
    found = quantize_within_budget(model, config, BudgetRequest(BUDGET, cells.search), SilentUi())
    record = found.record
    everything = next(trial for trial in record.trials if not trial.excluded)
    assert everything.drop.high > BUDGET, "with the planted group in INT8 the budget is broken"
    assert len(record.trials) >= 2
    worst = record.sensitivity[0].group
    assert "fc1" in worst
    assert worst in record.chosen.excluded
    assert record.chosen.int8_share > 0.3
    drop = drop_on_test(model, cells)
    print(record.chosen, record.promised, drop)
    assert record.holds
    assert drop.estimate <= BUDGET
    assert drop.low <= record.promised.high
    assert drop.high >= record.promised.low


def test_a_natural_search_that_is_killed_goes_on(tmp_path, cells, weights):
    """The recipe of an undisturbed network; the process is killed in the middle of the search."""
    model, _ = exported(tmp_path, cells, weights)
    command = [
        *(sys.executable, "-m", "hvt_deploy", "quantize", MODEL, "--budget", str(BUDGET)),
        *("--workspace", tmp_path / "artifacts", "--calib", cells.calibration),
        *("--budget-data", cells.search, "--json"),
    ]
    environment = {**os.environ, "CI": "", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    kept = tmp_path / "cache" / "hvt-deploy" / "budget"
    while running.poll() is None and not list(kept.glob("*.json")):
        time.sleep(0.2)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    (trials,) = kept.glob("*.json")
    before = trials.stat().st_mtime_ns
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    record = json.loads(done.stdout)
    promised = record["promised"]
    assert done.returncode == (0 if promised["high"] <= BUDGET else 1), done.stderr
    assert list(kept.glob("*.json")) == [trials]
    assert trials.stat().st_mtime_ns > before
    assert record["chosen"]["drop"]["high"] <= BUDGET
    drop = drop_on_test(model, cells)
    print(record["chosen"], promised, drop)
    assert drop.estimate <= BUDGET
    assert drop.low <= promised["high"]
    assert drop.high >= promised["low"]
