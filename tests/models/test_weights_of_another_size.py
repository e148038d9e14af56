"""Any-resolution FasterViT from the 224 checkpoint: what carries over, what is dropped, what is
refused.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.official_facts import read_facts
from golden.official_file import official_shapes, official_state, save_official

from hvt_deploy.core.errors import BadInput
from hvt_deploy.models import create_model, get_spec, load_checkpoint
from hvt_deploy.models.golden_check import draw_images, fill_parameters, list_goldens
from hvt_deploy.models.weights.load import load_model

TOKENIZER = "levels.2.global_tokenizer"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def official_224(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("official") / "fastervit_0_224_1k.pth.tar"
    save_official(path, "faster_vit", official_state("faster_vit_0_224", "public-1"))
    return path


def assert_golden(model: torch.nn.Module, name: str) -> None:
    golden = next(golden for golden in list_goldens("faster_vit_0_any_res") if golden.name == name)
    with torch.no_grad():
        logits = model.double()(draw_images(golden.salt, golden.input).double()).numpy()
    expected = np.asarray(golden.logits_first32)
    assert np.all(np.abs(logits[:, :32] - expected) <= 1e-6 * np.maximum(1, np.abs(expected)))


@pytest.mark.parametrize(
    ("golden", "image_size", "dropped"),
    [
        ("square_224x224", (224, 224), ()),
        ("rect_224x448", (224, 448), ("hat_pos_embed",)),
        (
            "one_window_112x112",
            (112, 112),
            ("hat_attn", "hat_mlp", "hat_norm1", "hat_norm2", "hat_pos_embed"),
        ),
    ],
)
def test_any_resolution_takes_the_224_file(
    official_224: Path, golden: str, image_size: tuple[int, int], dropped: tuple[str, ...]
) -> None:
    model, report = load_model(get_spec("faster_vit_0_any_res", image_size), official_224)
    assert_golden(model, golden)
    unused = report.keys_with("unused at this size")
    assert tuple(sorted({key.split(".")[4] for key in unused})) == dropped
    recorded = read_facts("faster_vit_0_224")
    recomputed = [
        key for key, kind in recorded["kinds"].items() if kind == "persistent-buffer-computed"
    ]
    assert set(report.keys_with("recomputed")) == set(recomputed)
    meanings = {key.key: key.meaning for key in report.keys}
    assert list(meanings) == list(recorded["state_dict"])
    assert meanings["levels.3.blocks.0.attn.pos_emb_funct.cpb_mlp.0.weight"] == "loaded"
    assert (
        meanings["levels.2.blocks.0.pos_embed.relative_bias"]
        == "dropped: the model computes it itself"
    )
    if dropped:
        assert meanings[unused[0]] == "dropped: the model has no such part at this image size"


def test_file_of_a_wide_model_lacks_what_a_square_one_needs(tmp_path: Path) -> None:
    state = official_state("faster_vit_0_any_res", "public-1")
    save_official(tmp_path / "wide.pth.tar", "faster_vit", state)
    load_model(get_spec("faster_vit_0_any_res", (224, 448)), tmp_path / "wide.pth.tar")
    with pytest.raises(BadInput) as caught:
        load_model(get_spec("faster_vit_0_any_res", (224, 224)), tmp_path / "wide.pth.tar")
    assert (
        "saved at an image size at which the model has no levels.2.blocks.0.hat_pos_embed"
        in caught.value.message
    )
    assert "faster_vit_0_any_res at 224x224 needs them" in caught.value.message
    assert "--image-size" in caught.value.hint


def test_fixed_model_takes_no_file_with_parts_too_many(official_224: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        load_model(get_spec("faster_vit_1_224"), official_224)
    assert caught.value.hint == "It is a checkpoint of faster_vit_0_224."
    with pytest.raises(BadInput) as caught:
        load_model(get_spec("faster_vit_1_any_res"), official_224)
    assert caught.value.hint == "It is a checkpoint of faster_vit_0_any_res."


@pytest.mark.parametrize(
    ("given", "asked", "named"),
    [
        # The four 21k models have the same parameters: only their stored tables tell them apart.
        ("faster_vit_4_21k_384", "faster_vit_4_21k_224", "faster_vit_4_21k_384"),
        ("faster_vit_4_21k_768", "faster_vit_4_21k_512", "faster_vit_4_21k_768"),
        ("faster_vit_4_21k_768", "faster_vit_4_any_res", "faster_vit_4_21k_768_any_res"),
        ("faster_vit_4_224", "faster_vit_4_21k_224", "faster_vit_4_224"),
        ("faster_vit_4_21k_224", "faster_vit_4_224", "faster_vit_4_21k_224"),
        ("faster_vit_5_224", "faster_vit_6_224", "faster_vit_5_224"),
        ("hvt_s_3", "faster_vit_0_224", "hvt_s_3"),
    ],
)
def test_file_of_another_variant_names_it(
    given: str, asked: str, named: str, tmp_path: Path
) -> None:
    save_official(tmp_path / "other.pth.tar", get_spec(given).family, official_shapes(given))
    start = time.perf_counter()
    with pytest.raises(BadInput) as caught:
        load_model(get_spec(asked), tmp_path / "other.pth.tar")
    assert (
        time.perf_counter() - start < 10
    )  # about 2 s the first time: every named model is built without memory
    assert f"not a checkpoint of {asked}" in caught.value.message
    assert caught.value.hint == f"It is a checkpoint of {named}."


@pytest.mark.parametrize(
    "given", ["faster_vit_4_21k_224", "faster_vit_4_21k_384", "faster_vit_4_21k_768"]
)
def test_any_resolution_computes_its_own_tables(given: str, tmp_path: Path) -> None:
    save_official(tmp_path / "official.pth.tar", "faster_vit", official_shapes(given))
    _, report = load_model(
        get_spec("faster_vit_4_21k_384_any_res", (224, 448)), tmp_path / "official.pth.tar"
    )
    assert set(report.summary) == {"loaded", "recomputed"}


@pytest.mark.parametrize("name", ["faster_vit_3", "faster_vit_6"])
def test_single_window_has_no_use_for_carrier_tokens(name: str, tmp_path: Path) -> None:
    save_official(tmp_path / "official.pth.tar", "faster_vit", official_shapes(f"{name}_224"))
    _, report = load_model(get_spec(f"{name}_any_res", (112, 112)), tmp_path / "official.pth.tar")
    parts = {key.split(".")[4] for key in report.keys_with("unused at this size")}
    assert parts == {
        "hat_attn",
        "hat_mlp",
        "hat_norm1",
        "hat_norm2",
        "hat_pos_embed",
        "gamma1",
        "gamma2",
    }


def test_second_name_of_a_parameter_wins(tmp_path: Path) -> None:
    state = official_state("faster_vit_0_224", "public-1")
    other = torch.linspace(-1, 1, 2304).reshape(256, 1, 3, 3)
    state[f"{TOKENIZER}.to_global_feature.pos.weight"] = other
    save_official(tmp_path / "two.pth.tar", "faster_vit", state)
    model = create_model("faster_vit_0_224")
    report = load_checkpoint(model, tmp_path / "two.pth.tar")
    assert torch.equal(model.state_dict()[f"{TOKENIZER}.pos_embed.weight"], other)
    assert report.keys_with("given by its alias") == tuple(
        f"{TOKENIZER}.pos_embed.{name}" for name in ("weight", "bias")
    )
    meanings = {key.key: key.meaning for key in report.keys}
    assert (
        meanings[f"{TOKENIZER}.to_global_feature.pos.weight"]
        == f"loaded as {TOKENIZER}.pos_embed.weight"
    )


@pytest.mark.parametrize("kept", ["pos_embed", "to_global_feature.pos"])
def test_either_name_alone_is_enough(kept: str, tmp_path: Path) -> None:
    other = {"pos_embed": "to_global_feature.pos", "to_global_feature.pos": "pos_embed"}[kept]
    state = official_state("faster_vit_0_224", "public-1")
    state = {
        key: tensor for key, tensor in state.items() if not key.startswith(f"{TOKENIZER}.{other}.")
    }
    save_official(tmp_path / "one.pth.tar", "faster_vit", state)
    model, _ = load_model(get_spec("faster_vit_0_224"), tmp_path / "one.pth.tar")
    whole = create_model("faster_vit_0_224")
    fill_parameters(whole, "public-1")
    assert torch.equal(
        model.state_dict()[f"{TOKENIZER}.pos_embed.weight"],
        whole.state_dict()[f"{TOKENIZER}.pos_embed.weight"],
    )
