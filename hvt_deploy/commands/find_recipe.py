"""`quantize --budget`: the recipe with the most INT8 whose accuracy stays inside a budget.

The images are split by seed: the search sees one part, the promised interval is measured once on
the other. A recipe counts as inside when the upper end of its interval is. Every measurement is
kept as soon as it is made, so an interrupted search goes on where it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from hvt_deploy.commands.build_target import find_int8_target
from hvt_deploy.commands.calibration_cache import calibrate
from hvt_deploy.commands.quantize import check_placement, make_graphs
from hvt_deploy.commands.quantized_graphs import Budgeted
from hvt_deploy.commands.recorded_names import names_of
from hvt_deploy.core.environment import cpu_count, require
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import hash_bytes
from hvt_deploy.core.manifest import BUDGET, CALIBRATION, INT8_CALIBRATION, Manifest
from hvt_deploy.core.run_config import QuantizationConfig, RunConfig
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.data.calibration_set import CalibrationSet, find_overlap, hash_samples
from hvt_deploy.data.folders import NO_LABEL, Sample, find_images, open_image_folder
from hvt_deploy.data.sampling import draw_stratified_sample
from hvt_deploy.evaluation.budget_record import BudgetRecord, BudgetRequest
from hvt_deploy.evaluation.images_needed import find_sample_size
from hvt_deploy.evaluation.recipe_search import RecipeBench, TrialCache, search_recipe
from hvt_deploy.evaluation.report.accuracy_budget import draw_budget, render_budget
from hvt_deploy.graph.quantization.engine_int8 import find_engine_placement
from hvt_deploy.graph.storage import load_onnx

# Without --budget-images: enough for the budget, and at least so many for a search that is not
# blind.
_FEWEST_IMAGES = 2000
# INT8 changes a few predictions of a hundred, about as many for the better as for the worse.
_CHANGED = 0.02


def quantize_within_budget(
    folder: ModelFolder, config: RunConfig, request: BudgetRequest, ui: Ui
) -> Budgeted:
    """Find the recipe inside an accuracy budget, then make the INT8 graphs by it.

    Everything becomes visible together. Raises BadInput for images without labels and for too few
    of them, naming the number needed.
    """
    require("onnxruntime", extra="cpu")
    with folder.lock():
        manifest, recipe, record = _find_recipe(folder, folder.read(), config, request, ui)
        manifest = make_graphs(folder, manifest, replace(config, quantization=recipe), "int8", ui)
        folder.commit(manifest)
    return Budgeted(recipe, record, folder.path / manifest.artifacts[BUDGET].folder)


def _find_recipe(
    folder: ModelFolder, manifest: Manifest, config: RunConfig, request: BudgetRequest, ui: Ui
) -> tuple[Manifest, QuantizationConfig, BudgetRecord]:
    """Find the recipe and store it with everything that was measured; not committed."""
    check_placement(folder, manifest, config)
    samples = _find_samples(manifest, config, request)
    _check_enough(samples, config, request, ui)
    manifest, calibrated = calibrate(folder, manifest, config, int8=True, ui=ui)
    if calibrated.int8 is None or calibrated.ranges is None:
        raise BadInput(
            "INT8 needs ranges measured on real images.",
            "Give training images with --calib DIR.",
        )
    calibration = CalibrationSet.read(
        folder.check_files(manifest.artifacts[CALIBRATION]).with_name("calibration.json")
    )
    search, confirm = _split(samples, config, request, calibration)
    model = load_onnx(folder.open_artifact(manifest, "fp32"))
    bench = RecipeBench(
        model,
        calibrated.int8,
        find_engine_placement(
            model,
            config.quantization,
            find_int8_target(config),
            attention=calibrated.int8.attention,
        ),
        manifest.preprocessing,
        manifest.signature.batch,
    )
    memory = TrialCache(_trial_key(manifest, config, request, search))
    record = search_recipe(bench, search, confirm, request, memory, ui)
    recipe = replace(config.quantization, excluded=record.chosen.excluded)
    files = replace(
        calibration,
        files=(
            *calibration.files,
            *hash_samples(search, "search"),
            *hash_samples(confirm, "confirm"),
        ),
    )
    return _store(folder, manifest, recipe, record, files), recipe, record


def _data_of(config: RunConfig, request: BudgetRequest) -> Path:
    return request.data or Path(config.calibration.folder)


def _find_samples(
    manifest: Manifest, config: RunConfig, request: BudgetRequest
) -> tuple[Sample, ...]:
    data = _data_of(config, request)
    if request.label_free:
        return tuple(Sample(data / file, NO_LABEL) for file in find_images(data))
    return open_image_folder(data, names_of(manifest), manifest.signature.num_classes).samples


def _check_enough(
    samples: Sequence[Sample], config: RunConfig, request: BudgetRequest, ui: Ui
) -> None:
    """Say how many images the budget needs, and raise BadInput where there are fewer."""
    data, needed = _data_of(config, request), _find_needed(request.budget)
    likely = find_sample_size(_CHANGED / 2, _CHANGED / 2, -math.inf, request.budget) or 0
    ui.say(
        f"A budget of {request.budget:g} points needs {needed:,} images even if no prediction "
        f"changes, and about {2 * likely:,} if {100 * _CHANGED:g} % change: half for the search, "
        "half to confirm it."
    )
    left = len(samples)
    if data.absolute() == Path(config.calibration.folder).absolute():
        left = max(0, left - config.calibration.images)
    _expect_enough(min(left, request.images or left), data, request.budget)


def _find_needed(budget: float) -> int:
    """For both halves. Raises BadInput for a budget that no number of images proves."""
    if budget > 100:
        raise BadInput(f"--budget is {budget:g} points.", "Give points of top-1, such as 0.5.")
    half = find_sample_size(0, 0, -math.inf, budget)
    if half is None:
        why = f"No number of images proves that {budget:g} points are lost at most."
        raise BadInput(why, "Give a larger budget, such as 0.5.")
    return 2 * half


def _expect_enough(images: int, data: Path, budget: float) -> None:
    needed = _find_needed(budget)
    if images < needed:
        raise BadInput(
            f"{images} images of {data} are left to search with; a budget of {budget:g} points "
            f"needs {needed}, even if no prediction changes: half for the search, half to confirm "
            "it.",
            "Give more labelled images (--budget-data DIR, --budget-images N) or a larger budget.",
        )


def _split(
    samples: Sequence[Sample],
    config: RunConfig,
    request: BudgetRequest,
    calibration: CalibrationSet,
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Images for the search and others for the promise; none of them was calibrated on."""
    data, seed = _data_of(config, request), config.calibration.seed
    calibrated = {Path(calibration.folder) / file.file for file in calibration.files}
    left = tuple(sample for sample in samples if sample.path.absolute() not in calibrated)
    wanted = request.images or max(_find_needed(request.budget), _FEWEST_IMAGES)
    drawn = draw_stratified_sample(left, wanted, seed)
    same = set(find_overlap(calibration, drawn, cpu_count()))
    drawn = tuple(sample for sample in drawn if sample.path not in same)
    _expect_enough(len(drawn), data, request.budget)
    search = draw_stratified_sample(drawn, len(drawn) // 2, seed + 1)
    chosen = {sample.path for sample in search}
    return search, tuple(sample for sample in drawn if sample.path not in chosen)


def _trial_key(
    manifest: Manifest, config: RunConfig, request: BudgetRequest, search: Sequence[Sample]
) -> str:
    contents = [file.sha256 for file in hash_samples(search, "search")]
    labels = [sample.label for sample in search]
    parts = [
        manifest.artifacts[INT8_CALIBRATION].sha256,
        to_plain(config.quantization),
        find_int8_target(config),
        request.label_free,
    ]
    return hash_bytes(json.dumps([parts, contents, labels]).encode())


def _store(
    folder: ModelFolder,
    manifest: Manifest,
    recipe: QuantizationConfig,
    record: BudgetRecord,
    files: CalibrationSet,
) -> Manifest:
    with folder.staging() as staged:
        files.write(staged / "calibration.json")
        header = "# A recipe: hvt-deploy quantize --recipe FILE\n"
        text = header + yaml.safe_dump(
            to_plain(recipe), sort_keys=False, default_flow_style=None, width=100
        )
        (staged / "recipe.yaml").write_text(text, encoding="utf-8")
        (staged / "budget.json").write_text(
            json.dumps(to_plain(record), indent=1) + "\n", encoding="utf-8"
        )
        (staged / "budget.svg").write_text(draw_budget(record), encoding="utf-8")
        (staged / "budget.md").write_text(render_budget(record, "budget.svg"), encoding="utf-8")
        return folder.add(
            manifest,
            BUDGET,
            staged,
            "recipe.yaml",
            f"hvt-deploy quantize {manifest.slug} --budget {record.budget:g}",
            parents=("fp32", INT8_CALIBRATION),
            commit=False,
        )
