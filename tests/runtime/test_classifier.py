"""The plain runtime and `predict`, on a trained model and real images."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hvt_deploy import Classifier
from hvt_deploy.commands.predict import predict
from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.data.decoding import UnreadableImage
from hvt_deploy.data.digits import write_digits


@pytest.fixture(scope="module")
def place(tmp_path_factory, exported):
    """A folder with the exported demo model and the digits."""
    place = tmp_path_factory.mktemp("place")
    digits = write_digits(place / "digits")
    exported(place / "artifacts", "fdvit_demo")
    exported(place / "artifacts", "fdvit_demo", {"export.batch": 3}, "fixed")
    return place, digits


@pytest.fixture(scope="module")
def photos(place):
    """Ten validation images with their digit."""
    _, digits = place
    return [(sorted((digits.validation / str(d)).iterdir())[0], str(d)) for d in range(10)]


def test_it_reads_digits_from_files_images_and_pixels(place, photos):
    folder, _ = place
    with Classifier(folder / "artifacts" / "fdvit_demo", threads=1, batch_size=4) as classifier:
        files = classifier([path for path, _ in photos])
        opened = classifier([Image.open(path) for path, _ in photos])
        pixels = classifier([np.asarray(Image.open(path).convert("RGB")) for path, _ in photos])
    assert [p.best.name for p in files] == [digit for _, digit in photos]
    assert files == opened == pixels
    assert all(sum(label.probability for label in p.labels) <= 1 for p in files)
    assert all(
        list(p.labels) == sorted(p.labels, key=lambda label: -label.probability) for p in files
    )
    assert all(len(p.labels) == 5 for p in files)


def test_probabilities_are_the_softmax_of_every_class(place, photos):
    folder, _ = place
    with Classifier(
        "fdvit_demo", "pytorch", workspace=folder / "artifacts", threads=1
    ) as classifier:
        (prediction,) = classifier([photos[3][0]], top=10)
    assert sum(label.probability for label in prediction.labels) == pytest.approx(1)
    assert sorted(label.index for label in prediction.labels) == list(range(10))
    assert prediction.best.probability > 0.5


def test_a_fixed_batch_gives_as_many_predictions_as_images(place, photos):
    folder, _ = place
    with Classifier("fixed", "ort", workspace=folder / "artifacts", threads=1) as classifier:
        predictions = classifier([path for path, _ in photos])
    assert [p.best.name for p in predictions] == [digit for _, digit in photos]


def test_what_is_not_an_image_and_what_cannot_run_is_refused(place, tmp_path):
    folder, _ = place
    workspace = folder / "artifacts"
    (tmp_path / "text.png").write_text("no image")
    with Classifier("fdvit_demo", workspace=workspace, threads=1) as classifier:
        with pytest.raises(UnreadableImage):
            classifier([tmp_path / "text.png"])
        with pytest.raises(BadInput, match="uint8"):
            classifier([np.zeros((8, 8), np.uint8)])
    with pytest.raises(BadInput, match="Unknown backend 'orrt'"):
        Classifier("fdvit_demo", "orrt", workspace=workspace)
    with pytest.raises(MissingEnvironment, match="trt cannot run here"):
        Classifier("fdvit_demo", "trt", workspace=workspace)


def test_predict_names_what_is_no_file_and_what_is_not_there(place, photos, tmp_path):
    folder, _ = place
    os.mkfifo(tmp_path / "pipe.png")
    given = [photos[0][0], tmp_path / "pipe.png", photos[1][0]]
    done = predict(given, "fdvit_demo", folder / "artifacts", "ort", 1, SilentUi())
    assert [i.labels[0].name if i.labels else i.error for i in done.images] == [
        "0",
        "not a file",
        "1",
    ]
    with pytest.raises(BadInput, match=r"gone\.png cannot be read: No such file"):
        predict([tmp_path / "gone.png"], "fdvit_demo", folder / "artifacts", "ort", 1, SilentUi())


def test_only_the_artifact_that_is_opened_is_checked(place, tmp_path):
    model = shutil.copytree(place[0] / "artifacts" / "fdvit_demo", tmp_path / "fdvit_demo")
    with next(model.glob("pytorch-*/*.safetensors")).open("ab") as weights:
        weights.write(b"more")
    Classifier(model, "ort", threads=1).close()
    with pytest.raises(BadInput, match="sha256 differs"):
        Classifier(model, "pytorch", threads=1)
    with next(model.glob("fp32-*/*.onnx")).open("ab") as graph:
        graph.write(b"more")
    with pytest.raises(BadInput, match="sha256 differs"):
        Classifier(model, "ort", threads=1)


def test_the_verb_goes_on_after_an_unreadable_file(place, photos, tmp_path):
    folder, _ = place
    (tmp_path / "pictures").mkdir()
    for path, digit in photos[:3]:
        Image.open(path).save(tmp_path / "pictures" / f"{digit}.png")
    (tmp_path / "pictures" / "1broken.jpg").write_bytes(b"\xff\xd8nothing")
    command = [
        sys.executable,
        "-m",
        "hvt_deploy",
        "predict",
        "pictures",
        "--model",
        "fdvit_demo",
        "--json",
    ]
    done = subprocess.run(
        [*command, "--workspace", str(folder / "artifacts")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2, done.stderr
    images = json.loads(done.stdout)["images"]
    assert [(i["path"], i["labels"][0]["name"] if i["labels"] else i["error"]) for i in images] == [
        ("pictures/0.png", "0"),
        ("pictures/1.png", "1"),
        ("pictures/1broken.jpg", images[2]["error"]),
        ("pictures/2.png", "2"),
    ]
    assert images[2]["error"]
