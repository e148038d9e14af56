"""Official files in, official logits out: the containers as the training programs write them, with every key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden.official_file import official_state, save_official
from golden.weight_rule import facts, goldens, images

from hvt_deploy.models import create_model, get_spec, load_checkpoint, to_deployed
from hvt_deploy.models.weights import load_model

SMALL = ("fdvit_ti",)
REST = ("fdvit_s", "fdvit_b")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def assert_golden(model: torch.nn.Module, name: str, salt: str) -> None:
    golden = next(golden for golden in goldens(name) if golden.salt == salt)
    dtype, allowed = (torch.float64, 1e-6) if golden.in_float64 else (torch.float32, 1e-4)
    with torch.no_grad():
        logits = model.to(dtype)(images(salt, golden.input).to(dtype)).double().numpy()
    expected = np.asarray(golden.logits_first32)
    scale = np.maximum(1, np.abs(expected)) if golden.in_float64 else np.abs(logits).max()
    assert np.all(np.abs(logits[:, :32] - expected) <= allowed * scale)
    assert logits.argmax(axis=1).tolist() == golden.argmax


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in REST)])
def test_official_file_gives_the_official_logits(name: str, tmp_path: Path) -> None:
    spec, path = get_spec(name), tmp_path / "official.pth"
    for salt in {golden.salt for golden in goldens(name)}:
        state = official_state(name, salt)
        save_official(path, spec.family, state)
        model, report = load_model(spec, path)
        assert [fate.key for fate in report.fates] == list(state)
        assert report.container == ("state_dict" if spec.family == "faster_vit" else "model")
        assert_golden(to_deployed(model), name, salt)
        assert_golden(model, name, salt)


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
    parameters = facts(name)["measured"].get("params_used_at_inference", facts(name)["measured"]["params"])
    assert sum(p.numel() for key, p in made.named_parameters() if key not in dropped) == parameters
    assert not any(p.is_meta or not p.requires_grad or p.dtype != torch.float32 for p in made.parameters())
    made.to("cpu").zero_grad()
