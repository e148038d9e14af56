"""Training of the demo models: once, measured on images that were held out, and recorded."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.core.environment import inference_threads, tool_versions
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import hash_file, replace_file, writing_to_cache
from hvt_deploy.core.locks import hold_alone
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.core.ui import Ui
from hvt_deploy.data.class_names import ClassNames
from hvt_deploy.data.elpv import ELPV_CLASSES, ElpvFolders
from hvt_deploy.evaluation.statistics import wilson_interval
from hvt_deploy.models.registry import get_spec
from hvt_deploy.models.training_recipe import TrainingRecipe
from hvt_deploy.models.weights.trained import find_record, find_trained, is_trained


@dataclass(frozen=True)
class TrainingRecord:
    """A training and its result."""

    model: str
    """Name of the model."""
    top1_percent: float
    """Of the images that were held out."""
    wilson_95_percent: tuple[float, float]
    """Wilson's 95 % interval of it."""
    majority_percent: float
    """The share of the most frequent class: the accuracy of who always names it."""
    correct: int
    """How many images it names right."""
    validation_images: int
    """How many images were held out."""
    train_images: int
    """How many images it was trained on."""
    epochs: int
    """Passes over them."""
    seed: int
    """Of weights, order and augmentation."""
    seconds: int
    """Of the training, by the clock: longer where other programs had the cores."""
    cpu_seconds: int
    """Of the training, user and system, of all its threads."""
    threads: int
    """Of PyTorch."""
    torch: str
    """Version of PyTorch."""
    sha256: str
    """Of the checkpoint."""


@dataclass(frozen=True)
class TrainingData:
    """Two folders without a common image."""

    train: Path
    """Images to train on."""
    held_out: Path
    """Images to measure on, once."""
    names: ClassNames
    """The classes."""


def train_demo(
    model: str, data: TrainingData, recipe: TrainingRecipe, checkpoint: Path, threads: int, ui: Ui
) -> TrainingRecord:
    """Train `model` on `data.train`, write `checkpoint` and measure it on `data.held_out`, once."""
    from hvt_deploy.models.training import count_correct, load_split, train_model
    from hvt_deploy.models.weights.load import save_reference

    spec, started, used = get_spec(model), time.monotonic(), time.process_time()
    train = load_split(data.train, spec.preprocessing, data.names)
    with ui.progress(f"Training {model}") as progress:
        trained = train_model(spec, train, recipe, threads, progress)
    seconds, cpu_seconds = round(time.monotonic() - started), round(time.process_time() - used)
    held_out = load_split(data.held_out, spec.preprocessing, data.names)
    correct, images = count_correct(trained, held_out), len(held_out.labels_N)
    with replace_file(checkpoint) as temporary:
        save_reference(trained, temporary)
    accuracy = wilson_interval(correct, images)
    return TrainingRecord(
        model=model,
        top1_percent=round(accuracy.estimate, 2),
        wilson_95_percent=(round(accuracy.low, 2), round(accuracy.high, 2)),
        majority_percent=round(100 * int(held_out.labels_N.bincount().max()) / images, 2),
        correct=correct,
        validation_images=images,
        train_images=len(train.labels_N),
        epochs=recipe.epochs,
        seed=recipe.seed,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        threads=threads,
        torch=tool_versions()["torch"],
        sha256=hash_file(checkpoint),
    )


def train_on_elpv(model: str, folders: ElpvFolders, ui: Ui) -> Path:
    """The record of a model of solar cells in the cache, trained now unless it was before.

    Its weights and the names of its classes are next to it. Raises BadInput for a model of other
    images, and where the weights are not those that were trained.
    """
    spec = get_spec(model)
    recipe = spec.checkpoint.trained
    if recipe is None:
        raise BadInput(f"{model} is no model of solar cells.")
    with writing_to_cache() as cache:
        path = find_trained(spec, cache)
        path.parent.mkdir(parents=True, exist_ok=True)
        with hold_alone(path.with_suffix(".lock"), ui):
            if not is_trained(path):
                ui.say(f"{model} is trained now, once: minutes. Its weights stay in {path.parent}.")
                data = TrainingData(folders.train, folders.test, ELPV_CLASSES)
                record = train_demo(model, data, recipe, path, inference_threads(), ui)
                names = json.dumps(ELPV_CLASSES.names)
                path.with_name("class_indices.json").write_text(names, encoding="utf-8")
                with replace_file(find_record(path)) as temporary:
                    temporary.write_text(json.dumps(to_plain(record), indent=1) + "\n")
    return find_record(path)
