from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from golden.official_facts import read_facts
from golden.official_file import yacs_node

from hvt_deploy.core.errors import BadInput
from hvt_deploy.models import create_model, get_spec, load_checkpoint
from hvt_deploy.models.golden_check import draw_state
from hvt_deploy.models.weights.load import load_model, save_reference, seed_random_weights


@pytest.fixture(scope="module")
def official() -> dict[str, torch.Tensor]:
    """A state dict with the official keys of fdvit_ti, decoders included."""
    return draw_state(
        "weights",
        {key: tuple(shape) for key, shape in read_facts("fdvit_ti")["state_dict"].items()},
    )


@pytest.fixture
def small() -> dict[str, torch.Tensor]:
    torch.manual_seed(11)
    return create_model("fdvit_demo").state_dict()


def logits(model: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        return model(torch.rand(2, 3, *model.hvt_spec.image_size, generator=generator))


def stored(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    return path


def test_official_container_loads_and_drops_decoders(
    official: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    # What the official main.py writes, with an optimizer's state and the training options as a
    # Namespace.
    content = {
        "model": official,
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}},
            "param_groups": [{"lr": 1e-3, "params": [0]}],
        },
        "epoch": 299,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(lr=1e-3, output_dir=Path("out").name),
    }
    path = stored(tmp_path, content)
    model = create_model("fdvit_ti")
    report = load_checkpoint(model, path)
    decoders = tuple(key for key in official if key.startswith("decoders."))
    assert report.dropped_train_only == decoders
    assert (report.container, len(report.keys_with("loaded")), report.num_classes) == (
        "model",
        len(official) - len(decoders),
        1000,
    )
    assert report.keys_with("recomputed") == ()
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = model.state_dict()
    assert all(
        torch.equal(loaded[key], tensor) for key, tensor in official.items() if key not in decoders
    )


@pytest.mark.parametrize(
    "container", ["bare", "state_dict", "model", "state_dict_ema", "model_ema"]
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_container_gives_the_same_model(
    small: dict[str, torch.Tensor], tmp_path: Path, container: str, prefix: str
) -> None:
    reference = create_model("fdvit_demo")
    reference.load_state_dict(small)
    prefixed = {prefix + key: tensor for key, tensor in small.items()}
    model = create_model("fdvit_demo")
    report = load_checkpoint(
        model, stored(tmp_path, prefixed if container == "bare" else {container: prefixed})
    )
    assert report.container == container
    assert torch.equal(logits(model), logits(reference))


@pytest.mark.parametrize(
    ("trained", "averaged"), [("model", "model_ema"), ("state_dict", "state_dict_ema")]
)
def test_trained_weights_win_over_averaged_ones(
    small: dict[str, torch.Tensor], tmp_path: Path, trained: str, averaged: str
) -> None:
    ema = {key: torch.zeros_like(tensor) for key, tensor in small.items()}
    model = create_model("fdvit_demo")
    assert (
        load_checkpoint(model, stored(tmp_path, {averaged: ema, trained: small})).container
        == trained
    )
    assert logits(model).abs().max() > 0


def test_a_program_without_averaged_weights_writes_none(
    small: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    content = {"model": small, "model_ema": None, "best_score": 0.9}
    assert (
        load_checkpoint(create_model("fdvit_demo"), stored(tmp_path, content)).container == "model"
    )


def test_file_format_before_torch_1_6(small: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({"model": small}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    model, reference = create_model("fdvit_demo"), create_model("fdvit_demo")
    reference.load_state_dict(small)
    load_checkpoint(model, tmp_path / "old.pth")
    assert torch.equal(logits(model), logits(reference))


def test_only_the_encoder_of_a_larger_model_is_taken(
    small: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    wrapped = {f"module.encoder.{key}": tensor for key, tensor in small.items()}
    wrapped["module.target.weight"] = torch.zeros(3)
    model, reference = create_model("fdvit_demo"), create_model("fdvit_demo")
    reference.load_state_dict(small)
    report = load_checkpoint(model, stored(tmp_path, {"state_dict": wrapped}))
    assert torch.equal(logits(model), logits(reference))
    assert report.keys_with("not encoder") == ("target.weight",)
    taken = next(key for key in report.keys if key.key == "encoder.pos_embed")
    assert taken.meaning == "loaded as pos_embed"


def test_every_key_has_its_status(small: dict[str, torch.Tensor], tmp_path: Path) -> None:
    report = load_checkpoint(create_model("fdvit_demo"), stored(tmp_path, small))
    assert [key.key for key in report.keys] == list(small)
    meanings = {key.key: key.meaning for key in report.keys}
    assert meanings["pos_embed"] == "loaded"
    assert meanings["decoders.0.conv.weight"] == "dropped: of use in training only"
    assert report.summary == {"loaded": len(small) - 6, "train-only": 6}


def test_features_need_no_head(small: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path, reference = stored(tmp_path, small), create_model("fdvit_demo")
    reference.load_state_dict(small)
    reference.head = torch.nn.Identity()
    features, report = load_model(get_spec("fdvit_demo"), path, num_classes=0)
    assert report.num_classes == features.num_classes == 0
    assert report.keys_with("head not wanted") == ("head.weight", "head.bias")
    assert torch.equal(logits(features), logits(reference))


@pytest.mark.parametrize("name", ["timm:swin_tiny_patch4_window7_224", "timm:fastvit_t8"])
def test_timm_models_load_in_one_step_too(name: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    reference = create_model(name)
    content = reference.state_dict()
    if "swin" in name:  # what timm stored before version 0.9
        content["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(
            49, 49, dtype=torch.int64
        )
        content["layers.0.blocks.1.attn_mask"] = torch.full((64, 49, 49), torch.nan)
    path = stored(tmp_path, {"state_dict": content})
    model, report = load_model(get_spec(name), path)
    assert len(report.keys_with("recomputed")) == (2 if "swin" in name else 0)
    images = torch.randn(1, 3, *get_spec(name).image_size)
    with torch.no_grad():
        assert torch.equal(model(images), reference(images))
    _, report = load_model(get_spec(name), path, num_classes=0)
    assert report.keys_with("head not wanted") == ("head.fc.weight", "head.fc.bias")


def test_another_file_of_timm_is_described(tmp_path: Path) -> None:
    state = create_model("timm:resnet18").state_dict()
    del state["layer1.0.bn1.weight"]
    with pytest.raises(BadInput) as caught:
        load_model(get_spec("timm:resnet18"), stored(tmp_path, state))
    assert caught.value.hint == "It is nearest to timm:resnet18 itself: 121 of 122 tensors agree."
    with pytest.raises(BadInput, match="unexpected") as caught:
        load_model(get_spec("timm:fastvit_t8"), stored(tmp_path, state))
    assert "like no model that is known here" in caught.value.hint


def test_half_precision_weights_become_float32(
    small: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    half = {key: tensor.bfloat16() for key, tensor in small.items()}
    model, _ = load_model(get_spec("fdvit_demo"), stored(tmp_path, half))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.pos_embed, half["pos_embed"].float())


def test_changing_a_loaded_model_leaves_the_file(
    small: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = stored(tmp_path, small)
    before = path.read_bytes()
    model, _ = load_model(get_spec("fdvit_demo"), path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    assert path.read_bytes() == before


def test_models_made_after_a_load_have_weights_again(
    small: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    del small["norm.weight"]
    with pytest.raises(BadInput):
        load_model(get_spec("fdvit_demo"), stored(tmp_path, small))
    assert not any(parameter.is_meta for parameter in create_model("fdvit_demo").parameters())


def test_what_is_not_used_is_not_read(tmp_path: Path) -> None:
    # 320 MB of weights in a file cost a model only pages of the file, which the system may drop,
    # and the 320 MB in addition never any.
    script = f"""
import gc, torch
from pathlib import Path
from safetensors.torch import save_file
from hvt_deploy.models import create_model, get_spec
from hvt_deploy.models.weights.load import load_model

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = dict(line.split()[:2] for line in lines if line.startswith("Rss"))
    return [int(sizes[name]) / 1024 for name in ("RssAnon:", "RssFile:")]

def draw():
    return {{k: torch.zeros(shape) for k, shape in shapes.items()}}

with torch.device("meta"):
    shapes = {{k: t.shape for k, t in create_model("fdvit_b").state_dict().items()}}
folder, models = Path({str(tmp_path)!r}), []
torch.save({{"model": draw(), "optimizer": draw()}}, folder / "torch")
save_file(draw(), folder / "safetensors")
for kind in ("torch", "safetensors"):
    gc.collect()
    before = resident()
    model, report = load_model(get_spec("fdvit_b"), folder / kind)
    print(*(now - then for now, then in zip(resident(), before)), len(report.keys_with("loaded")))
    models.append(model)  # its memory would be taken for the next one
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    found = [line.split() for line in done.stdout.splitlines()]
    assert len(found) == 2
    for grown_mb, mapped_mb, loaded in found:
        assert int(loaded) > 150
        assert float(grown_mb) < 90, "the zeros of the decoders' weights (48 MB) and some pages"
        assert float(mapped_mb) < 400, "the weights once"


def test_saved_reference_loads_again(tmp_path: Path) -> None:
    model, other = create_model("fdvit_demo"), create_model("fdvit_demo")
    seed_random_weights(model, 1)
    path = tmp_path / "reference.safetensors"
    save_reference(model, path)
    report = load_checkpoint(other, path)
    assert report.container == "bare"
    assert torch.equal(logits(other), logits(model))


def test_weights_that_modules_share_are_saved_for_each(tmp_path: Path) -> None:
    """As in timm's CoaT, where the blocks of a stage share their position encodings."""
    model, other = create_model("fdvit_demo"), create_model("fdvit_demo")
    seed_random_weights(model, 1)
    block = model.get_submodule("transformers.0.blocks.0")
    block.norm2 = block.norm1
    path = tmp_path / "reference.safetensors"
    save_reference(model, path)
    load_checkpoint(other, path)
    assert torch.equal(logits(other), logits(model))


def test_yacs_options_load_without_yacs(small: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert "yacs" not in sys.modules
    with yacs_node() as node:
        options = node(lr=1e-3, model=node(depth=(2, 2)))
        options.__dict__["__immutable__"] = True
        path = stored(tmp_path, {"model": small, "config": options})
    assert "yacs" not in sys.modules
    assert load_checkpoint(create_model("fdvit_demo"), path).container == "model"


class Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def test_a_pickle_that_executes_code_is_refused(
    small: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    witness = tmp_path / "executed"
    path = stored(tmp_path, {"model": small, "args": Evil(f"touch {witness}")})
    with pytest.raises(BadInput, match="system") as caught:
        load_checkpoint(create_model("fdvit_demo"), path)
    assert "execute" in caught.value.message
    assert not witness.exists()


def test_names_that_others_allowed_stay_refused(
    small: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = stored(tmp_path, {"model": small, "options": types.SimpleNamespace(lr=1)})
    with torch.serialization.safe_globals([types.SimpleNamespace]):
        with pytest.raises(BadInput, match="SimpleNamespace"):
            load_checkpoint(create_model("fdvit_demo"), path)
        assert types.SimpleNamespace in torch.serialization.get_safe_globals(), (
            "their list must be restored"
        )


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.95])
@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_truncated_file(
    small: dict[str, torch.Tensor], tmp_path: Path, kept: float, kind: str
) -> None:
    path = tmp_path / f"cut.{kind}"
    if kind == "torch":
        torch.save(small, path)
    else:
        save_reference(create_model("fdvit_demo"), path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(BadInput, match=r"cut\.\w+ \(\d+ bytes\) is not a complete checkpoint"):
        load_checkpoint(create_model("fdvit_demo"), path)


def test_web_page_instead_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "fdvit_ti.pth"
    path.write_text("<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title></html>")
    with pytest.raises(BadInput, match="web page"):
        load_checkpoint(create_model("fdvit_demo"), path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no checkpoint file"):
        load_checkpoint(create_model("fdvit_demo"), tmp_path / "nothing.pth")


@pytest.mark.parametrize("content", [{"epoch": 3, "loss": 0.1}, [1, 2], {}, {"model": {"a": 1}}])
def test_file_without_weights(tmp_path: Path, content: object) -> None:
    with pytest.raises(BadInput, match="holds no weights"):
        load_checkpoint(create_model("fdvit_demo"), stored(tmp_path, content))


def test_nearest_model_is_named_where_none_fits(
    official: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    pruned = {
        key: tensor for key, tensor in official.items() if "transformers.4.blocks.1." not in key
    }
    with pytest.raises(BadInput) as caught:
        load_checkpoint(create_model("fdvit_s"), stored(tmp_path, pruned))
    assert caught.value.hint == "It is nearest to fdvit_ti: 177 of 191 tensors agree."
    with pytest.raises(BadInput) as caught:
        load_checkpoint(create_model("fdvit_ti"), stored(tmp_path, pruned))
    assert caught.value.hint == "It is nearest to fdvit_ti itself: 177 of 191 tensors agree."


def test_fine_tuned_checkpoint_of_another_model_is_recognised(
    official: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    tuned = {**official, "head.weight": torch.zeros(5, 260), "head.bias": torch.zeros(5)}
    with pytest.raises(BadInput) as caught:
        load_checkpoint(create_model("fdvit_s"), stored(tmp_path, tuned))
    assert caught.value.hint == "It is a checkpoint of fdvit_ti."


def test_file_of_no_model_is_called_nobodys(tmp_path: Path) -> None:
    other = {f"backbone.layer{i}.weight": torch.zeros(8, 8) for i in range(50)}
    with pytest.raises(BadInput) as caught:
        load_checkpoint(create_model("fdvit_ti"), stored(tmp_path, other))
    assert "like no model" in caught.value.hint


def test_checkpoint_of_another_model_names_both(
    official: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model = create_model("fdvit_demo")
    before = logits(model)
    with pytest.raises(BadInput) as caught:
        load_checkpoint(model, stored(tmp_path, official))
    assert "not a checkpoint of fdvit_demo" in caught.value.message
    assert "88 unexpected (transformers.0.blocks.1.norm1.weight, " in caught.value.message
    assert "fdvit_ti" in caught.value.hint
    assert torch.equal(logits(model), before), "a refused checkpoint must leave the model as it was"


def test_missing_and_misshapen_keys_are_named(
    small: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    del small["norm.weight"]
    small["stray.weight"] = torch.zeros(1)
    small["pos_embed"] = small["pos_embed"][:, :, 1:]
    with pytest.raises(BadInput) as caught:
        load_checkpoint(create_model("fdvit_demo"), stored(tmp_path, small))
    for part in (
        "1 missing (norm.weight)",
        "1 unexpected (stray.weight)",
        "pos_embed (1, 32, 14, 15)",
    ):
        assert part in caught.value.message


def test_head_of_another_size_sets_the_classes(
    small: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(1)
    small["head.weight"], small["head.bias"] = torch.randn(4, 96), torch.randn(4)
    model = create_model("fdvit_demo").double()
    report = load_checkpoint(model, stored(tmp_path, small))
    assert report.num_classes == model.num_classes == 4
    with torch.no_grad():
        assert model(torch.rand(2, 3, 32, 32, dtype=torch.float64)).shape == (2, 4)


def test_half_a_head_is_an_error(small: dict[str, torch.Tensor], tmp_path: Path) -> None:
    small["head.weight"] = torch.randn(4, 96)
    with pytest.raises(BadInput, match=r"head\.weight \(4, 96\)"):
        load_checkpoint(create_model("fdvit_demo"), stored(tmp_path, small))


def test_seeded_weights_are_deterministic_and_well_scaled() -> None:
    models = [create_model("fdvit_ti") for _ in range(3)]
    for model, seed in zip(models, (5, 5, 6), strict=True):
        seed_random_weights(model, seed)
    first, same, other = (logits(model) for model in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert 0.3 < first.std() < 3
    assert (first[0] - first[1]).abs().max() > 0.01, "different images must give different logits"
