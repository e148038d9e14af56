"""`export --preprocess-in-graph`: a graph that takes photos as they were decoded, and what
`validate` says of it.
"""

from __future__ import annotations

import html

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from hvt_deploy import Classifier
from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.export import export
from hvt_deploy.commands.package import package_triton
from hvt_deploy.commands.report import last_results, render
from hvt_deploy.commands.validate import validate
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.manifest import PIXELS
from hvt_deploy.core.run_config import with_flags
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.data.digits import write_digits
from hvt_deploy.graph import storage

# (width, height); Pillow shrinks the columns of the last one first.
SIZES = ((60, 45), (32, 32), (45, 60), (97, 64))


@pytest.fixture(scope="module")
def place(tmp_path_factory, exported):
    """The trained demo model with its preprocessing in a graph, and digits as photos of several
    sizes.
    """
    place = tmp_path_factory.mktemp("place")
    digits = write_digits(place / "digits")
    for digit in range(10):
        (place / "photos" / str(digit)).mkdir(parents=True)
        for i, file in enumerate(sorted((digits.validation / str(digit)).iterdir())[:4]):
            photo = Image.open(file).resize(SIZES[i], Image.Resampling.BICUBIC)
            photo.save(place / "photos" / str(digit) / f"{i}.png")
    folder = exported(place / "artifacts", "fdvit_demo", {"export.preprocess_in_graph": True})
    return place / "photos", folder


def config_with(flags):
    return with_flags(config_of("hvt_demo"), {"export.preprocess_in_graph": True, **flags})


def pixels_of(file):
    return np.asarray(Image.open(file).convert("RGB"))


def test_any_onnx_runtime_takes_a_photo_as_it_was_decoded(place):
    photos, folder = place
    graph = folder.file(folder.read().artifacts[PIXELS])
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for digit in range(10):
        for file in (photos / str(digit)).iterdir():
            (logits,) = session.run(["logits"], {"images_NHWC": pixels_of(file)[None]})
            assert logits.argmax() == digit
    batch = np.stack([pixels_of(photos / str(digit) / "0.png") for digit in (3, 7)])
    (logits,) = session.run(["logits"], {"images_NHWC": batch})
    assert logits.argmax(axis=1).tolist() == [3, 7]


def test_validate_measures_its_accuracy_and_its_pixels(place, monkeypatch):
    photos, folder = place
    monkeypatch.setattr(
        "hvt_deploy.evaluation.timing.measure_latency", lambda *_, **__: {}
    )  # its speed is another matter
    config = with_flags(folder.read().config, {"validation.threads": 1})
    results = validate(folder, config, photos, None, SilentUi()).results
    rows = {row.backend: row for row in results.rows}
    row = rows["ort fp32 uint8"]
    assert row.images == 40
    assert row.accuracy.top1.estimate == row.fidelity.agreement.estimate == 100
    assert 0.5 < row.pixel_difference.largest < 8
    assert 0 < row.pixel_difference.mean < 0.3
    assert rows["ort fp32"].pixel_difference is None
    assert rows["ort fp32"].fidelity.sqnr_db > row.fidelity.sqnr_db > 20
    assert last_results(folder) == results
    for form in ("markdown", "html"):
        report = html.unescape(render(results, form))
        assert "Its pixels differ from Pillow's by 0." in report


def test_the_classifier_gives_it_pixels(place):
    photos, folder = place
    files = [photos / str(digit) / f"{digit % 4}.png" for digit in range(10)]
    with Classifier(folder.path, "ort fp32 uint8", threads=1, batch_size=4) as classifier:
        assert [p.best.name for p in classifier(files)] == [str(digit) for digit in range(10)]
    with Classifier(folder.path, threads=1) as classifier:
        assert classifier.backend == "ort fp32", "the exact pipeline, where there is one"


def test_with_a_fixed_batch_and_weights_in_a_file_and_an_export_without_the_flag_takes_it_away(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(storage, "EXTERNAL_ABOVE_BYTES", 1000)
    monkeypatch.setattr("hvt_deploy.graph.large_weights.LARGE_BYTES", 10_000)
    monkeypatch.setattr("hvt_deploy.graph.torch_export.LARGE_BYTES", 10_000)
    folder = ModelFolder(tmp_path / "m")
    done = export(folder, config_with({"export.batch": 2}), None, SilentUi())
    data = done.path.with_name(f"{done.path.name}.data")
    assert done.pixels_path.with_name(data.name).read_bytes() == data.read_bytes()
    assert done.pixels_path.stat().st_size < 500_000 < data.stat().st_size
    with Classifier(folder.path, "ort fp32 uint8", threads=1) as classifier:
        assert len(classifier([np.zeros((9, 7, 3), np.uint8)] * 3)) == 3
    plain = export(folder, config_with({"export.preprocess_in_graph": False}), None, SilentUi())
    assert set(folder.read().artifacts) == {"pytorch", "fp32"}
    package_triton(folder, tmp_path / "repository", "onnxruntime", False, SilentUi())
    data = plain.path.with_name(f"{plain.path.name}.data")
    assert (tmp_path / "repository" / "m_fp32" / "1" / data.name).read_bytes() == data.read_bytes()


def test_what_cannot_be_in_a_graph_is_refused_before_anything_is_exported(tmp_path):
    config = config_with({"preprocessing.interpolation": "nearest"})
    with pytest.raises(BadInput, match="cannot be in a graph"):
        export(ModelFolder(tmp_path / "m"), config, None, SilentUi())
    assert not (tmp_path / "m").exists()
