from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hvt_deploy.data.digits import write_digits
from hvt_deploy.data.folders import Sample, open_image_folder
from hvt_deploy.data.images import load_batches
from hvt_deploy.models import create_model, get_spec, load_checkpoint, to_deployed
from hvt_deploy.models.weights.download import obtain_weights

RECORDS = Path(__file__).parents[2] / "training"
DEMOS = ("fdvit_demo", "faster_vit_demo", "dfvt_demo", "hvt_demo")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """The digits that no demo model was trained on."""
    folder = tmp_path_factory.mktemp("digits") / "digits"
    return list(open_image_folder(write_digits(folder).validation, None, 10).samples)


@pytest.mark.parametrize("name", DEMOS)
def test_packaged_checkpoint_is_as_accurate_as_recorded(
    name: str, validation: list[Sample], tmp_path
) -> None:
    spec = get_spec(name)
    obtained = obtain_weights(spec, "auto", tmp_path / "cache")
    assert (obtained.source, obtained.untrained) == ("packaged", False)
    assert obtained.path is not None
    model = create_model(name)
    report = load_checkpoint(model, obtained.path)
    record = json.loads((RECORDS / f"{name}.json").read_text())
    assert report.sha256 == record["sha256"], (
        "run training/train_digits.py: checkpoint and record belong together"
    )

    deployed = to_deployed(model)
    correct, same = 0, 0
    for batch in load_batches(validation, spec.preprocessing, 100, threads=1):
        images = torch.from_numpy(batch.images_NCHW)
        with torch.inference_mode():
            answers = model(images).argmax(dim=1)
            same += int((deployed(images).argmax(dim=1) == answers).sum())
        correct += int((answers == torch.from_numpy(batch.labels_N)).sum())
    assert len(validation) == record["validation_images"]
    assert correct == pytest.approx(record["correct"], abs=1)
    assert correct / len(validation) >= 0.96
    assert same == len(validation)


@pytest.mark.parametrize("name", DEMOS)
def test_packaged_checkpoint_is_small(name: str) -> None:
    path = obtain_weights(get_spec(name), "official", Path("unused")).path
    assert path is not None
    assert path.stat().st_size <= 3 * 2**20
    assert get_spec(name).measured.params <= 700_000
