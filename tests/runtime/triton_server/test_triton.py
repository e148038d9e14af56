"""A Triton model repository: what is in it, and a real server that answers as `validate` does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import run

from hvt_deploy import Classifier
from hvt_deploy.commands.package import package_triton
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.data.decoding import decode
from hvt_deploy.data.digits import write_digits
from hvt_deploy.data.images import preprocess

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def place(tmp_path_factory, exported):
    """The trained demo model, exported, packaged for Triton's Python backend, and ten images."""
    place = tmp_path_factory.mktemp("place")
    digits = write_digits(place / "digits")
    folder = exported(place / "artifacts", "fdvit_demo", {"export.preprocess_in_graph": True})
    packaged = package_triton(folder, place / "repository", "python", False, SilentUi())
    images = [sorted((digits.validation / str(d)).iterdir())[0] for d in range(10)]
    return place, folder, packaged, images


def test_the_repository_holds_the_network_the_preprocessing_and_the_names(place):
    root, folder, packaged, _ = place
    assert packaged.models == (
        "fdvit_demo_preprocess",
        "fdvit_demo_fp32",
        "fdvit_demo",
        "fdvit_demo_fp32-uint8",
    )
    assert sorted(p.name for p in (root / "repository").iterdir()) == sorted(packaged.models)
    network = root / "repository" / "fdvit_demo_fp32"
    exported = folder.file(folder.read().artifacts["fp32"])
    assert (network / "1" / "network.onnx").read_bytes() == exported.read_bytes()
    assert (network / "labels.txt").read_text().split() == [str(d) for d in range(10)]
    assert (
        'input [{ name: "images", data_type: TYPE_FP32, dims: [3, 32, 32] }]'
        in (network / "config.pbtxt").read_text()
    )
    pixels = root / "repository" / packaged.pixels_model / "config.pbtxt"
    assert (
        'input [{ name: "images_NHWC", data_type: TYPE_UINT8, dims: [-1, -1, 3] }]'
        in pixels.read_text()
    )


def test_the_servers_pixels_are_those_of_the_exact_pipeline(place):
    root, folder, _, images = place
    version = root / "repository" / "fdvit_demo_preprocess" / "1"
    code = (
        "import io, json, sys, numpy as np; sys.path.insert(0, sys.argv[1])\n"
        "import hvt_deploy; assert hvt_deploy.__file__.startswith(sys.argv[1])\n"
        "from hvt_deploy.core.types import Preprocessing\n"
        "from hvt_deploy.data.decoding import decode\n"
        "from hvt_deploy.data.images import preprocess\n"
        "values = json.load(open(sys.argv[1] + '/preprocessing.json'))\n"
        "values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}\n"
        "data = io.BytesIO(open(sys.argv[2], 'rb').read())\n"
        "np.save(sys.argv[3], preprocess(decode(data), Preprocessing(**values)))\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, version, images[4], root / "pixels.npy"], check=True, cwd=root
    )
    expected = preprocess(decode(images[4]), folder.read().preprocessing)
    assert isinstance(folder.read().preprocessing, Preprocessing)
    assert np.array_equal(np.load(root / "pixels.npy"), expected)


def test_random_weights_a_fixed_batch_and_a_folder_in_use_are_refused(place, tmp_path, exported):
    _, folder, _, _ = place
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(BadInput, match="not an empty folder"):
        package_triton(folder, tmp_path / "used", "python", False, SilentUi())
    exported(tmp_path / "artifacts", "hvt_demo", {"export.weights": "random"})
    refused = run("package", "--triton", "repository", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--allow-untrained" in refused.stderr
    assert not (tmp_path / "repository").exists()
    done = run("package", "--triton", "repository", "--allow-untrained", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = (tmp_path / "repository" / "hvt_demo_fp32" / "config.pbtxt").read_text()
    assert 'backend: "onnxruntime"' in config
    assert "max_batch_size: 32" in config
    assert (
        "Licences: code of hvt_demo Apache-2.0, its weights none needed, they are random"
        in done.stderr
    )
    exported(tmp_path / "artifacts", "fdvit_demo", {"export.batch": 3}, "fixed")
    refused = run("package", "fixed", "--triton", "another", cwd=tmp_path)
    assert refused.returncode == 2
    assert "without --batch" in refused.stderr


@pytest.mark.slow
def test_a_real_server_answers_as_the_classifier_does(place, tmp_path):
    root, folder, packaged, images = place
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    packages = [
        "nvidia-pytriton==0.7.0",
        "tritonclient[http,grpc]",
        "numpy<2",
        "onnxruntime",
        "pillow",
    ]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    command = [
        python,
        HERE / "triton_session.py",
        root / "repository",
        "fdvit_demo",
        packaged.pixels_model,
        *images,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    answer = json.loads(done.stdout)
    ensemble = answer["configs"]["fdvit_demo"]
    assert (ensemble["platform"], ensemble["max_batch_size"]) == ("ensemble", 32)
    assert answer["loaded"] == sorted(answer["configs"])
    with Classifier(folder.path, "ort fp32", threads=1) as classifier:
        expected = [[label.name for label in p.labels] for p in classifier(images, top=3)]
    assert [p[0] for p in expected] == [str(d) for d in range(10)]
    for protocol in ("http", "grpc", "pixels"):
        assert [[text.split(":")[2] for text in row] for row in answer[protocol]] == expected
    assert "cannot be read" in answer["refusal"]
