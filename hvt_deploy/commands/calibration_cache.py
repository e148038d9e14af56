"""The calibration of a model: found again while images, graph and settings are the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hvt_deploy.commands.build_target import find_int8_target
from hvt_deploy.commands.calibration_images import CalibrationReader, split_images
from hvt_deploy.core.environment import cpu_count
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import hash_bytes
from hvt_deploy.core.freshness import is_fresh
from hvt_deploy.core.manifest import (
    CALIBRATION,
    INT8_CALIBRATION,
    CalibrationFacts,
    Int8CalibrationFacts,
    Manifest,
)
from hvt_deploy.core.run_config import RunConfig
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.data.calibration_health import Thumbnails, find_health_faults
from hvt_deploy.data.calibration_set import CalibrationSet, choose_calibration
from hvt_deploy.data.sampling import keep_images, order_evenly
from hvt_deploy.evaluation.parity import draw_seeded_noise
from hvt_deploy.graph.quantization.calibration import (
    Int8Settings,
    calibrate_int8,
)
from hvt_deploy.graph.quantization.int8_calibration import Int8Calibration, read_int8_calibration
from hvt_deploy.graph.quantization.ort_session import RUNS_AT_ONCE
from hvt_deploy.graph.quantization.ranges import Ranges, collect_ranges_and_logits, read_ranges

# Images that a graph is compared with FP32 on, where there is no folder to take them from.
_NOISE_IMAGES = 4
# Graphs of smaller images are compared on more of them, as many as have these pixels: few say
# little where a few images have most of the noise.
_COMPARED_PIXELS, _MOST_COMPARED = 224 * 224, 64
# The measurements that are stored with the ranges: a new one is part of the key.
_MEASURED = "ranges of tensors, of the channels of normalizations and Linears; health"
_MEASURED_AT_ONCE = 2
# What a calibrator that was named may lose against max before that is said.
_CALIBRATOR_MAY_LOSE_DB = 1.0


@dataclass(frozen=True)
class Calibrated:
    """The result of calibration."""

    ranges: Ranges | None
    """Activation ranges; None where there are no images."""
    images: ImagesNCHW
    """A batch (N, 3, H, W) that parity is measured on."""
    fp32_logits_NK: LogitsNK | None = None  # noqa: N815
    """FP32's logits for these, where the ranges were measured just now."""
    int8: Int8Calibration | None = None
    """Thresholds and recovery passes; None for FP16."""
    on_noise: bool = False
    """Whether `images` are noise because the calibration images are not here."""


def calibrate(
    folder: ModelFolder, manifest: Manifest, config: RunConfig, *, int8: bool, ui: Ui
) -> tuple[Manifest, Calibrated]:
    """Ranges on the calibration images, and what INT8 takes from them; not committed: the graphs
    that were made from earlier ones would be stale.

    Where the images are not on this machine, what was measured on them is taken. Raises BadInput if
    there is nothing for INT8, or another folder is asked for that is not there.
    """
    source = Path(config.calibration.folder)
    if not (config.calibration.folder and source.is_dir()):
        recorded = is_fresh(manifest, CALIBRATION)
        if recorded and config.calibration.folder == manifest.config.calibration.folder:
            return _recorded(folder, manifest, config, int8=int8, ui=ui)
        if int8 or recorded:
            raise BadInput(
                f"Calibration needs real images, and there is no folder "
                f"{config.calibration.folder or 'without a name'}.",
                "Give training images with --calib DIR (any image folder, never the validation "
                "images).",
            )
        ui.warn(
            f"No calibration images ({source}): FP16 without measured ranges. "
            "Give some with --calib DIR."
        )
        return manifest, Calibrated(None, _noise(manifest), on_noise=True)
    chosen = choose_calibration(source, config.calibration.images, config.calibration.seed)
    samples, at_once = chosen.samples(), config.calibration.batch_size
    # A graph of a fixed batch size may read more images than there are.
    fixed = manifest.signature.batch or 0
    height, width = manifest.preprocessing.image_size
    more = min(at_once * (_COMPARED_PIXELS // (height * width)), _MOST_COMPARED)
    places = sorted(order_evenly(max(len(samples), fixed))[: fixed or max(at_once, more)])
    reader = CalibrationReader(manifest, max(1, at_once // RUNS_AT_ONCE))
    manifest, ranges, compared = _ranges(folder, manifest, chosen, reader, places, ui)
    if compared is None:
        picked = tuple(samples[place] for place in places if place < len(samples))
        compared = next(CalibrationReader(manifest, len(places)).batches(picked)), None
    found = None
    if int8:
        manifest, found = _int8(folder, manifest, config, chosen, ranges, ui)
    return manifest, Calibrated(ranges, *compared, found)


def _recorded(
    folder: ModelFolder, manifest: Manifest, config: RunConfig, *, int8: bool, ui: Ui
) -> tuple[Manifest, Calibrated]:
    """Calibration from what was measured before, in a workspace that was copied without images."""
    path = folder.open_artifact(manifest, CALIBRATION)
    ranges, noise = read_ranges(path), _noise(manifest)
    ui.say(
        f"The calibration images ({config.calibration.folder}) are not here: what was measured on "
        "them is taken. New graphs are compared with FP32 on noise."
    )
    if not int8:
        return manifest, Calibrated(ranges, noise, on_noise=True)
    chosen = CalibrationSet.read(path.with_name("calibration.json"))
    manifest, found = _int8(folder, manifest, config, chosen, ranges, ui)
    return manifest, Calibrated(ranges, noise, int8=found, on_noise=True)


def _noise(manifest: Manifest) -> ImagesNCHW:
    return draw_seeded_noise(manifest.signature, manifest.signature.batch or _NOISE_IMAGES, seed=0)


def _ranges(
    folder: ModelFolder,
    manifest: Manifest,
    chosen: CalibrationSet,
    reader: CalibrationReader,
    places: Sequence[int],
    ui: Ui,
) -> tuple[Manifest, Ranges, tuple[ImagesNCHW, LogitsNK] | None]:
    """The ranges, and where they are measured now the images at `places` with their logits."""
    fp32 = folder.open_artifact(manifest, "fp32")
    preprocessing = json.dumps(to_plain(manifest.preprocessing), sort_keys=True)
    fp32_sha256 = manifest.artifacts["fp32"].sha256
    key = _cache_key(_MEASURED, chosen.content_key, fp32_sha256, preprocessing)
    before = manifest.facts(CALIBRATION, CalibrationFacts)
    if before and before.key == key and is_fresh(manifest, CALIBRATION):
        return manifest, read_ranges(folder.open_artifact(manifest, CALIBRATION)), None
    with ui.progress(f"Calibrating on {len(chosen.files)} images of {chosen.folder}") as progress:
        thumbnails, kept = Thumbnails(), list[ImagesNCHW]()
        batches = keep_images(reader.batches(chosen.samples(), progress), places, kept)
        ranges, logits_NK = collect_ranges_and_logits(fp32, thumbnails.watch(batches), cpu_count())
        images_NCHW = np.concatenate(kept)
    names = {*(manifest.wnids or ()), *(manifest.class_names or ())}
    health = find_health_faults(chosen, thumbnails, manifest.signature.num_classes, names)
    with folder.staging() as staged:
        ranges.write(staged / "ranges.json")
        chosen.write(staged / "calibration.json")
        manifest = folder.add(
            manifest,
            CALIBRATION,
            staged,
            "ranges.json",
            f"hvt-deploy quantize {manifest.slug} --int8",
            facts=CalibrationFacts(key, health),
            parents=("fp32",),
            commit=False,
        )
        return manifest, ranges, (images_NCHW, logits_NK[[*places[: len(images_NCHW)]]])


def _int8(
    folder: ModelFolder,
    manifest: Manifest,
    config: RunConfig,
    chosen: CalibrationSet,
    ranges: Ranges,
    ui: Ui,
) -> tuple[Manifest, Int8Calibration]:
    # What a recipe excludes and, where attention is not judged, the library change nothing here.
    judged = config.quantization.int8_attention == "auto"
    settings = Int8Settings(
        replace(config.quantization, excluded=()), find_int8_target(config) if judged else None
    )
    key = _cache_key(manifest.artifacts[CALIBRATION].sha256, json.dumps(to_plain(settings)))
    before = manifest.facts(INT8_CALIBRATION, Int8CalibrationFacts)
    if before and before.key == key and is_fresh(manifest, INT8_CALIBRATION):
        found = read_int8_calibration(folder.open_artifact(manifest, INT8_CALIBRATION).parent)
        _warn_of_calibrator(found, config, ui)
        return manifest, _with_channels(found, ranges)
    if not Path(chosen.folder).is_dir():
        raise BadInput(
            f"INT8 with these settings needs its calibration images again, and there is no folder "
            f"{chosen.folder}.",
            "Give them with --calib DIR, or build with the recipe and for the library that were "
            "calibrated for.",
        )
    fp32 = folder.open_artifact(manifest, "fp32")
    # Many tensors of a batch are outputs.
    in_memory = min(_MEASURED_AT_ONCE, config.calibration.batch_size)
    reader = CalibrationReader(manifest, max(1, in_memory // RUNS_AT_ONCE))
    images = split_images(chosen.samples(), reader)
    found = calibrate_int8(fp32, ranges, settings, images, cpu_count(), ui)
    if found.effects:
        ui.say(
            "What INT8 gains by each step (SQNR of the logits against FP32, higher is better; each "
            "on images of its own):"
        )
    for effect in found.effects:
        ui.say(f"  {effect.name}: {effect}")
    _warn_of_calibrator(found, config, ui)
    with folder.staging() as staged:
        found.write(staged)
        manifest = folder.add(
            manifest,
            INT8_CALIBRATION,
            staged,
            "int8.json",
            f"hvt-deploy quantize {manifest.slug} --int8",
            facts=Int8CalibrationFacts(
                key=key,
                effects={effect.name: str(effect) for effect in found.effects},
                sqnr_by_role=found.sqnr_by_role,
                clipping=Counter(found.clipping.values()),
            ),
            parents=("fp32", CALIBRATION),
            commit=False,
        )
        return manifest, _with_channels(found, ranges)


def _warn_of_calibrator(found: Int8Calibration, config: RunConfig, ui: Ui) -> None:
    """Say that a calibrator that was named loses against max: it is used all the same."""
    name = config.quantization.calibrator
    for effect in found.effects:
        loses = effect.loses_db > _CALIBRATOR_MAY_LOSE_DB
        if loses and effect.kept and effect.name.startswith(f"calibrator {name}"):
            ui.warn(
                f"The {effect.name} loses {effect.loses_db:.1f} dB against max "
                f"({effect.before_db:.1f} -> {effect.after_db:.1f} dB); auto clips only where "
                "that gains."
            )


def _with_channels(found: Int8Calibration, ranges: Ranges) -> Int8Calibration:
    """The channels' ranges are stored once, with those that were measured."""
    return replace(found, ranges=replace(found.ranges, channels=ranges.channels))


def _cache_key(*parts: str) -> str:
    """One hash of everything that a result depends on."""
    return hash_bytes("\n".join(parts).encode())
