"""A user's own network, `module:factory`, through the command line; the code it came from changes,
and factories that make no classifier.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch
from command_line import run
from PIL import Image

from hvt_deploy.commands import validate as validate_step
from hvt_deploy.commands.config import config_of_file
from hvt_deploy.commands.export import export
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.model_options import FactorySource
from hvt_deploy.core.run_config import RunConfig, dump_config, with_flags
from hvt_deploy.core.serialization import from_plain
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.models.exported import spec_of_config
from hvt_deploy.models.factory import network
from hvt_deploy.models.factory import spec as factory_spec
from hvt_deploy.models.factory.spec import describe_changes
from hvt_deploy.models.factory.trial import FactoryTrial
from hvt_deploy.models.registry import create_from, get_spec, to_deployed

CODE = """
import torch
from torch import nn
from parts import WIDTH

class Net(nn.Module):
    spec = "an attribute of the user's own"

    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, images):
        tokens = self.stem(images).flatten(2).transpose(1, 2)
        return self.head(self.norm(tokens).mean(1))

def make(num_classes=3):
    print("a line on stdout")
    torch.manual_seed(len(images_seen))
    images_seen.append(0)
    return Net(num_classes)

images_seen = []
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the user's code and the network that is exported from it."""
    place = tmp_path_factory.mktemp("place")
    (place / "mine.py").write_text(CODE)
    (place / "parts.py").write_text("WIDTH = 8\n")
    size = ("--image-size", "32x48", "--preprocessing", "crop_pct=1,mean=[0.5,0.5,0.5]")
    done = run("export", "mine:make", *size, "--num-classes", "5", cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1  # what the factory prints is not there
    assert "its code runs with your rights" in done.stderr
    return place


@pytest.fixture
def changed(place):
    """Writes code, and puts back what was there."""
    before = {path: path.read_text() for path in place.glob("*.py")}
    yield lambda name, text: (place / name).write_text(text)
    for path, text in before.items():
        path.write_text(text)


def read_manifest(place, slug="mine-make-32x48"):
    return json.loads((place / "artifacts" / slug / "manifest.json").read_text())


def test_the_manifest_says_what_was_called_and_how_images_are_prepared(place):
    manifest = read_manifest(place)
    source = manifest["config"]["options"]["factory"]
    assert {Path(path).name for path in source["files"]} == {"mine.py", "parts.py"}
    assert (source["num_classes"], source["takes_num_classes"]) == (5, True)
    assert manifest["weights"]["source"] == "factory"
    assert manifest["preprocessing"]["image_size"] == [32, 48]
    assert manifest["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert manifest["preprocessing"]["std"] == [0.229, 0.224, 0.225]


def test_later_commands_call_the_factory_again_and_name_what_changed(place, changed):
    done = run("diagnose", cwd=place)
    assert (done.returncode, "matches pytorch" in done.stdout) == (0, True), done.stderr
    assert "has changed" not in done.stderr
    changed("parts.py", "WIDTH = 8  # as it was\n")
    done = run("diagnose", cwd=place)
    assert done.returncode == 0
    assert re.search(r"has changed since the export: \S+/parts.py", done.stderr)
    assert "mine.py" not in done.stderr
    changed("parts.py", "WIDTH = 16\n")
    done = run("diagnose", cwd=place)
    assert done.returncode == 2
    assert "parts.py. " in done.stderr
    assert "of another shape" in done.stderr
    assert "hvt-deploy export mine:make" in done.stderr


def test_answers_of_other_code_are_not_mixed_with_those_of_this_one(place, changed, monkeypatch):
    for label in "01234":
        (place / "val" / label).mkdir(parents=True)
        Image.new("RGB", (48, 32), (40 * int(label), 9, 9)).save(place / f"val/{label}/a.png")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(validate_step, "time_rows", interrupted)
        assert run("validate", "--data", "val", cwd=place).returncode == 130
        changed("parts.py", "WIDTH = 8  # of another day\n")
        other = run("validate", "--data", "val", cwd=place)
        assert (other.returncode, "Going on" in other.stderr) == (130, False)
        changed("parts.py", "WIDTH = 8\n")
        same = run("validate", "--data", "val", cwd=place)
        assert "5 of 5 images were answered before" in same.stderr


def test_a_configuration_file_is_taken_and_the_factory_runs_again(place, changed, monkeypatch):
    monkeypatch.chdir(place)
    source = from_plain(FactorySource, read_manifest(place)["config"]["options"]["factory"])
    config = from_plain(RunConfig, read_manifest(place)["config"])
    (place / "mine.yaml").write_text(dump_config(config))
    changed("mine.py", CODE + "\n# more\n")
    assert "mine.py" in describe_changes(source)
    again = config_of_file(place / "mine.yaml", "mine:make", None, SilentUi())
    assert again.options.factory is not None
    assert describe_changes(again.options.factory) == ""
    assert replace(again, options=config.options) == config
    with pytest.raises(BadInput, match="configuration of mine:make, not of mine:other"):
        config_of_file(place / "mine.yaml", "mine:other", None, SilentUi())


def test_a_checkpoint_of_other_classes_fits_and_its_weights_are_the_graphs(place, monkeypatch):
    monkeypatch.chdir(place)
    tuned = network.make_network("mine:make", str(place), 7)
    torch.save({"state_dict": tuned.state_dict()}, place / "tuned.pth")
    config = from_plain(RunConfig, read_manifest(place)["config"])
    config = with_flags(config, {"export.weights": "tuned.pth", "preprocessing.crop_pct": 0.5})
    folder = ModelFolder(place / "artifacts" / "tuned")
    path = export(folder, config, None, SilentUi()).path
    images = torch.rand(2, 3, 32, 48)
    session = onnxruntime.InferenceSession(path)
    with torch.no_grad():
        logits = torch.tensor(session.run(None, {"images": images.numpy()})[0])
        assert torch.allclose(logits, tuned(images), atol=1e-5)
    assert export(folder, config, None, SilentUi()).before
    for weights, why in (("official", "No weights of mine:make"), ("none.pth", "no checkpoint")):
        with pytest.raises(BadInput, match=why):
            export(folder, with_flags(config, {"export.weights": weights}), None, SilentUi())


def test_a_network_whose_attribute_is_called_spec_keeps_it(place):
    config = from_plain(RunConfig, read_manifest(place)["config"])
    made = to_deployed(create_from(spec_of_config(config)))
    assert made.spec == "an attribute of the user's own"


BAD = """
import sys, torch
from torch import nn

class Net(nn.Module):
    def __init__(self, forward): super().__init__(); self.call = forward
    def forward(self, images): return self.call(images)

def raises():
    raise KeyError("weights")
def ends(): sys.exit(0)
def other(): return {"a": 1}
def a_class(): return Net
def words(): return Net(lambda images: {"logits": images})
def two(): return Net(lambda images: (images.mean((2, 3)), torch.zeros(2, 4)))
def one(): return Net(lambda images: images.mean((1, 2, 3))[:, None])
def picture(): return Net(lambda images: images)
def wrong_size(): return nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
def ten(num_classes): return Net(lambda images: images.mean((2, 3)))
value = 3
"""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("bad:raises", r"raised KeyError: 'weights'"),
        ("bad:ends", "raised SystemExit"),
        ("bad:other", "a dict, expected a torch.nn.Module"),
        ("bad:a_class", "the class Net"),
        ("bad:words", r"gives a dict of logits \(2, 3, 8, 8\), not one tensor"),
        ("bad:two", r"gives a tuple of 0 \(2, 3\), 1 \(2, 4\), not one tensor"),
        ("bad:one", r"gives \(2, 1\) for images \(2, 3, 8, 8\), no choice of a class"),
        ("bad:picture", r"\(2, 3, 8, 8\)"),
        ("bad:wrong_size", r"for images \(2, 3, 8, 8\)"),
        ("bad:ten", r"num_classes=10\) made a network of 3 classes"),
        ("bad:value", "Unknown callable in bad 'value'"),
        ("missing.module:make", "no module missing in"),
        ("broken:make", "Importing broken raised ModuleNotFoundError: No module named 'lacking'"),
    ],
)
def test_a_factory_that_makes_no_classifier_is_one_clear_error(tmp_path, name, why):
    (tmp_path / "bad.py").write_text(BAD)
    (tmp_path / "broken.py").write_text("import lacking\n")
    classes = 10 if name == "bad:ten" else None
    trial = FactoryTrial(name, str(tmp_path), (8, 8), classes, tmp_path / "found.json")
    with pytest.raises(BadInput, match=why) as caught:
        network._try(trial)
    if name in ("bad:raises", "broken:make"):
        assert re.search(r"\.py, line \d+: (raise KeyError|import lacking)", caught.value.hint)


def test_a_factory_that_hangs_is_ended(tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(factory_spec, "FACTORY_LIMIT_S", 1.0)
    with pytest.raises(BadInput, match="slow:make did not return within 1 seconds"):
        get_spec("slow:make")


def test_a_pickled_network_is_refused_and_the_way_is_shown(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    done = run("export", "hvt_demo", "--weights", "whole.pth", cwd=tmp_path)
    assert done.returncode == 2
    assert "hvt-deploy export module:factory --weights PATH" in done.stderr
