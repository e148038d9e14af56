"""`validate --subset`: top-1 over the logits of the benchmark's classes alone, for every backend
alike.
"""

from __future__ import annotations

import json

import numpy as np
import onnxruntime as ort
from PIL import Image

from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.export import export
from hvt_deploy.commands.validate import validate
from hvt_deploy.core.run_config import with_flags
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import open_folder
from hvt_deploy.data.class_names import load_imagenet_1k
from hvt_deploy.data.decoding import decode
from hvt_deploy.data.imagenet_subsets import find_subset_classes
from hvt_deploy.data.images import preprocess
from hvt_deploy.evaluation.report.markdown import render_markdown

TINY = {
    "input_size": 32,
    "patch_size": 8,
    "num_heads": 1,
    "num_blocks": 2,
    "pool_kernel_size": 3,
    "pool_stride": 2,
    "pool_block_width": 2,
}


def test_only_the_subsets_classes_compete(tmp_path) -> None:
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    folder = open_folder(tmp_path / "artifacts", "tiny")
    config = with_flags(config_of(str(tmp_path / "tiny.json")), {"export.weights": "random"})
    exported = export(folder, config, None, SilentUi())
    session = ort.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    names = load_imagenet_1k()
    assert names.wnids is not None
    classes = np.array(find_subset_classes("imagenet-a", names))
    rng = np.random.default_rng(0)
    best_of_all = 0
    for i in range(12):
        image = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(image)
        pixels = preprocess(decode(image), config.preprocessing)
        logits_K = session.run(None, {"images": pixels[None]})[0][0]
        best = int(classes[logits_K[classes].argmax()])
        best_of_all += int(logits_K.argmax()) == best
        target = tmp_path / "imagenet-a" / names.wnids[best]
        target.mkdir(parents=True, exist_ok=True)
        image.rename(target / image.name)
    assert best_of_all < 12, "the test needs images whose best class is not of the subset"
    flags = {"validation.subset": "imagenet-a", "validation.threads": 1}
    done = validate(folder, with_flags(config, flags), tmp_path / "imagenet-a", None, SilentUi())
    measured = {
        row.backend: row.accuracy.top1.estimate for row in done.results.rows if row.accuracy
    }
    assert measured == {"pytorch fp32": 100.0, "ort fp32": 100.0}
    assert done.results.data.subset == "imagenet-a"
    assert "imagenet-a" in render_markdown(done.results)
