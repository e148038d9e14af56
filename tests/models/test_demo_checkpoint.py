from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hvt_deploy.datasets import open_image_folder
from hvt_deploy.digits import write_digits
from hvt_deploy.images import load_batches
from hvt_deploy.models import create_model, get_spec, load_checkpoint, to_deployed
from hvt_deploy.models.weights import obtain_weights

RECORD = Path(__file__).parents[2] / "training" / "fdvit_demo.json"


def test_packaged_checkpoint_is_as_accurate_as_recorded(tmp_path: Path) -> None:
    spec = get_spec("fdvit_demo")
    obtained = obtain_weights(spec, "auto", tmp_path / "cache")
    assert (obtained.source, obtained.untrained) == ("packaged", False)
    assert obtained.path is not None
    model = create_model("fdvit_demo")
    report = load_checkpoint(model, obtained.path)
    record = json.loads(RECORD.read_text())
    assert report.sha256 == record["sha256"], "run training/train_digits.py: checkpoint and record belong together"

    samples = open_image_folder(write_digits(tmp_path / "digits").validation, None, 10).samples
    deployed = to_deployed(model)
    correct, same = 0, 0
    for batch in load_batches(samples, spec.preprocessing, 100, threads=1):
        images = torch.from_numpy(batch.images_NCHW)
        with torch.inference_mode():
            answers = model(images).argmax(dim=1)
            same += int((deployed(images).argmax(dim=1) == answers).sum())
        correct += int((answers == torch.from_numpy(batch.labels_N)).sum())
    assert len(samples) == record["validation_images"]
    assert correct == pytest.approx(record["correct"], abs=1)
    assert correct / len(samples) >= 0.96
    assert same == len(samples)


def test_packaged_checkpoint_is_small() -> None:
    path = obtain_weights(get_spec("fdvit_demo"), "official", Path("unused")).path
    assert path is not None
    assert path.stat().st_size <= 3 * 2**20
    assert get_spec("fdvit_demo").measured.params <= 700_000
