"""A network with ImageNet's weights names well-known photographs right in every precision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from imagenet_photographs import MODEL, find_weights, list_labelled, write_crops

from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.export import export
from hvt_deploy.commands.quantize import quantize
from hvt_deploy.core.environment import ORT_DISABLED_OPTIMIZERS
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.data.class_names import load_imagenet_1k
from hvt_deploy.data.folders import NO_LABEL, Sample
from hvt_deploy.data.images import load_batches
from hvt_deploy.models import get_spec
from hvt_deploy.models.weights.load import load_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The exported and quantized network, calibrated on other photographs."""
    place = tmp_path_factory.mktemp("imagenet")
    config = config_of(MODEL)
    config = replace(
        config,
        export=replace(config.export, weights=str(find_weights())),
        calibration=replace(
            config.calibration, folder=str(write_crops(place / "crops", 16)), images=64
        ),
    )
    folder = ModelFolder(place / "artifacts" / "lite0")
    export(folder, config, None, SilentUi())
    quantize(folder, config, "int8", SilentUi())
    return folder


@pytest.fixture(scope="module")
def photographs():
    """Images (24, 3, 224, 224), and the classes that are right of each."""
    labelled = list_labelled()
    samples = [Sample(path, NO_LABEL) for path, _ in labelled]
    (batch,) = load_batches(samples, get_spec(MODEL).preprocessing, len(samples), threads=1)
    return batch.images_NCHW, labelled


def count_right(logits_NK, labelled) -> int:
    answers = logits_NK.argmax(axis=1)
    return sum(int(a) in classes for a, (_, classes) in zip(answers, labelled, strict=True))


def test_pytorch_names_them(photographs):
    images_NCHW, labelled = photographs
    model, report = load_model(get_spec(MODEL), find_weights())
    assert report.summary == {"loaded": 296}
    with torch.inference_mode():
        logits_NK = model(torch.from_numpy(images_NCHW)).numpy()
    assert count_right(logits_NK, labelled) == 22
    names = {
        path.name: load_imagenet_1k().short(int(logits.argmax()))
        for (path, _), logits in zip(labelled, logits_NK, strict=True)
    }
    assert names["coffee.png"] == "espresso"
    assert names["camera.png"] == "tripod"
    assert names["imagenet_13_471.jpg"] == "cannon"
    assert names["imagenet_15_99.jpg"] == "goose"


@pytest.mark.parametrize(
    ("key", "fewest", "fewest_db"),
    [("fp32", 22, 100), ("fp16", 22, 40), ("int8-fp32", 20, 15), ("int8-cpu", 20, 15)],
)
def test_onnx_runtime_names_them_too(place, photographs, key, fewest, fewest_db):
    images_NCHW, labelled = photographs
    options = {"disabled_optimizers": ORT_DISABLED_OPTIMIZERS}
    logits = {}
    for graph in ("fp32", key):
        path = place.open_artifact(place.read(), graph)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"], **options)
        (logits[graph],) = session.run(None, {"images": images_NCHW})
    noise = ((logits[key] - logits["fp32"]) ** 2).sum()
    sqnr_db = 10 * np.log10((logits["fp32"] ** 2).sum() / max(noise, 1e-30))
    right = count_right(logits[key], labelled)
    print(f"{key}: {right} of {len(labelled)}, {sqnr_db:.1f} dB")
    assert right >= fewest
    assert sqnr_db >= fewest_db
