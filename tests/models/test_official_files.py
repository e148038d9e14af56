"""Official files in, official logits out: the containers as the training programs write them, with
every key.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.official_facts import read_facts
from golden.official_file import official_state, save_official

from hvt_deploy.core.errors import BadInput
from hvt_deploy.data.class_names import find_stated_names
from hvt_deploy.models import create_model, get_spec, load_checkpoint, to_deployed
from hvt_deploy.models.golden_check import draw_images, fill_parameters, list_goldens
from hvt_deploy.models.weights.load import load_model

SMALL = ("fdvit_ti", "dfvt_tiny", "hvt_ti_1", "faster_vit_0_224")
REST = (
    "fdvit_s",
    "fdvit_b",
    "dfvt_small",
    "dfvt_base",
    "scale_hvt_ti_4",
    *(f"hvt_s_{i}" for i in range(5)),
    *(f"faster_vit_{i}_224" for i in range(1, 5)),
    "faster_vit_4_21k_224",
    "faster_vit_4_21k_384",
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def assert_golden(model: torch.nn.Module, name: str, salt: str) -> None:
    golden = next(golden for golden in list_goldens(name) if golden.salt == salt)
    dtype, allowed = (torch.float64, 1e-6) if golden.in_float64 else (torch.float32, 1e-4)
    with torch.no_grad():
        logits = model.to(dtype)(draw_images(salt, golden.input).to(dtype)).double().numpy()
    expected = np.asarray(golden.logits_first32)
    scale = np.maximum(1, np.abs(expected)) if golden.in_float64 else np.abs(logits).max()
    assert np.all(np.abs(logits[:, :32] - expected) <= allowed * scale)
    assert logits.argmax(axis=1).tolist() == golden.argmax


@pytest.mark.parametrize(
    "name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in REST)]
)
def test_official_file_gives_the_official_logits(name: str, tmp_path: Path) -> None:
    spec, path = get_spec(name), tmp_path / "official.pth"
    for salt in {golden.salt for golden in list_goldens(name)}:
        state = official_state(name, salt)
        save_official(path, spec.family, state)
        model, report = load_model(spec, path)
        assert [key.key for key in report.keys] == list(state)
        assert report.container == ("state_dict" if spec.family == "faster_vit" else "model")
        assert_golden(model, name, salt)
        assert_golden(to_deployed(model), name, salt)


@pytest.mark.parametrize("name", SMALL)
def test_filling_a_model_in_place_gives_the_same_one(name: str, tmp_path: Path) -> None:
    path = tmp_path / "official.pth"
    save_official(path, get_spec(name).family, official_state(name, "public-1"))
    made, report = load_model(get_spec(name), path)
    filled = create_model(name)
    assert load_checkpoint(filled, path) == report
    values, others = made.state_dict(), filled.state_dict()
    dropped = report.dropped_train_only
    assert all(torch.equal(values[key], others[key]) for key in others if key not in dropped)
    parameters = read_facts(name)["measured"].get(
        "params_used_at_inference", read_facts(name)["measured"]["params"]
    )
    assert sum(p.numel() for key, p in made.named_parameters() if key not in dropped) == parameters
    assert not any(
        p.is_meta or not p.requires_grad or p.dtype != torch.float32 for p in made.parameters()
    )
    made.to("cpu").zero_grad()


@pytest.mark.parametrize("name", SMALL)
def test_fine_tuned_head_sets_the_classes_and_their_names(name: str, tmp_path: Path) -> None:
    # As the FasterViT-Pytorch repository's train_gpu.py saves it, for any of the models.
    names = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
    state = official_state(name, "public-1")
    state["head.weight"], state["head.bias"] = state["head.weight"][:5].clone(), torch.arange(5.0)
    content = {
        "model": state,
        "optimizer": {"state": {}, "param_groups": []},
        "lr_scheduler": {"last_epoch": 3},
    }
    content |= {
        "epoch": 4,
        "best_score": 0.97,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(nb_classes=5),
    }
    content["model_ema"] = {
        f"module.{key}": torch.zeros(()).expand(tensor.shape) for key, tensor in state.items()
    }
    path = tmp_path / f"{name}_best_checkpoint.pth"
    torch.save(content, path)
    (tmp_path / "classes_indices.json").write_text(json.dumps(dict(enumerate(names)), indent=4))

    model, report = load_model(get_spec(name), path)
    assert report.num_classes == model.num_classes == model.head.out_features == 5
    assert find_stated_names(report.num_classes, None, path).names == names
    whole = create_model(name)
    fill_parameters(whole, "public-1")
    with torch.no_grad():
        logits = (
            whole(draw_images("x", (1, 3, 224, 224)))[:, :5]
            - whole.head.bias[:5]
            + torch.arange(5.0)
        )
        assert torch.allclose(model(draw_images("x", (1, 3, 224, 224))), logits, atol=1e-5)
        assert to_deployed(model)(draw_images("x", (2, 3, 224, 224))).shape == (2, 5)
    filled = create_model(name)
    assert load_checkpoint(filled, path).num_classes == filled.num_classes == 5
    assert torch.equal(filled.head.bias, torch.arange(5.0))


@pytest.mark.parametrize(
    ("given", "asked", "named"),
    [
        ("hvt_s_2", "hvt_s_1", "hvt_s_2"),
        ("hvt_s_4", "hvt_s_0", "scale_hvt_ti_4 or hvt_s_4"),
        ("dfvt_tiny", "dfvt_small", "dfvt_tiny"),
        ("dfvt_tiny", "fdvit_ti", "dfvt_tiny"),
        ("fdvit_s", "hvt_ti_1", "fdvit_s"),
    ],
)
def test_file_of_another_model_names_it(given: str, asked: str, named: str, tmp_path: Path) -> None:
    save_official(tmp_path / "other.pth", get_spec(given).family, official_state(given, "public-1"))
    start = time.process_time()
    with pytest.raises(BadInput) as caught:
        load_model(get_spec(asked), tmp_path / "other.pth")
    assert (
        time.process_time() - start < 6
    )  # about 1 s here; every named model is built once, without memory
    assert f"not a checkpoint of {asked}" in caught.value.message
    assert caught.value.hint == f"It is a checkpoint of {named}."
