"""Files that are no checkpoint of finite numbers are refused with one sentence that says why, and
the wrappers of training programs load.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import run

from hvt_deploy.core.errors import BadInput
from hvt_deploy.models import create_model, get_spec, load_checkpoint
from hvt_deploy.models.weights.load import load_model

KEY = "norm.weight"
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(11)
    return create_model("fdvit_demo").state_dict()


def save(folder: Path, content: object) -> Path:
    torch.save(content, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


def refuse(path: Path) -> BadInput:
    with pytest.raises(BadInput) as caught:
        load_model(get_spec("fdvit_demo"), path)
    return caught.value


def with_first(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: torch.cat([torch.full_like(tensor[:1], value), tensor[1:]])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.to("meta"), "has no values"),
        (with_first(float("nan")), "has values that are no finite float32"),
        (with_first(float("-inf")), "has values that are no finite float32"),
        (lambda t: t.double() * 1e300, "has values that are no finite float32"),
        (lambda t: t.to(torch.int8), "is int8, not plain float32"),
        (lambda t: t > 0, "is bool, not plain float32"),
        (lambda t: t.to(torch.complex64), "is complex64, not plain float32"),
        (lambda t: t.to(torch.float8_e4m3fn), "is float8_e4m3fn, not plain float32"),
        (lambda t: t.to_sparse(), "is sparse_coo, not plain float32"),
        (
            lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
            "is qint8, not plain float32",
        ),
    ],
)
def test_weights_that_are_no_finite_numbers(
    state: State, tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], problem: str
) -> None:
    path = save(tmp_path, {**state, KEY: change(state[KEY])})
    assert f"{KEY} {problem}" in refuse(path).message
    model = create_model("fdvit_demo")
    before = model.state_dict()[KEY].clone()
    with pytest.raises(BadInput, match=KEY):
        load_checkpoint(model, path)
    assert torch.equal(model.state_dict()[KEY], before)


def test_export_of_nan_ends_with_2(state: State, tmp_path: Path) -> None:
    path = save(tmp_path, {**state, KEY: state[KEY] * torch.nan})
    done = run("export", "fdvit_demo", "--weights", path, cwd=tmp_path)
    assert done.returncode == 2
    assert KEY in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.filterwarnings("error")
def test_no_warning_of_pytorch_is_passed_on(state: State, tmp_path: Path) -> None:
    refuse(save(tmp_path, {**state, KEY: state[KEY].to_sparse()}))


@pytest.mark.parametrize("classes", [0, 10**9])
def test_a_head_without_classes_or_with_too_many(
    state: State, tmp_path: Path, classes: int
) -> None:
    head = {"head.weight": torch.zeros(1, 1).expand(classes, 96), "head.bias": torch.zeros(1)}
    head["head.bias"] = head["head.bias"].expand(classes)
    assert f"head.weight ({classes}, 96)" in refuse(save(tmp_path, {**state, **head})).message


@pytest.mark.parametrize("place", ["weights", "pickle"])
def test_a_bit_that_flipped(state: State, tmp_path: Path, place: str) -> None:
    path = save(tmp_path, state)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place == "weights" else content.find(b"pos_embed")] ^= 1
    path.write_bytes(content)
    assert "Bad CRC-32" in refuse(path).message


def test_a_file_without_checksums_loads(state: State, tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path, state)
    finally:
        torch.serialization.set_crc32_options(True)
    load_model(get_spec("fdvit_demo"), path)


@pytest.mark.parametrize("before", [[], [torch.serialization.MAGIC_NUMBER, 1001, {}]])
def test_values_within_values_are_not_walked_through(tmp_path: Path, before: list[object]) -> None:
    """Tuples of the tuple before, sixty times, as a key: hashing it would never end."""
    pickled = b"\x80\x02})q\0" + b"h\0\x86q\0" * 60 + b"K\x01s."
    path = tmp_path / "file.pth"
    if before:
        path.write_bytes(b"".join(pickle.dumps(one, 2) for one in before) + pickled)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickled)
            archive.writestr("archive/version", b"3\n")
    assert "values within values" in refuse(path).message


def test_a_compressed_archive(state: State, tmp_path: Path) -> None:
    path, packed = save(tmp_path, state), tmp_path / "packed.pth"
    with (
        zipfile.ZipFile(path) as archive,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in archive.namelist():
            new.writestr(name, archive.read(name))
    assert "compressed" in refuse(packed).message


def torchscript() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        torchscript,
        lambda: pickle.dumps({"a": 1}),
        lambda: pickle.dumps({"a": 1}, protocol=2),
        lambda: b"",
        lambda: b"hello world",
        lambda: b"PK\x03\x04 and nothing more",
    ],
)
def test_no_message_advises_to_load_unsafely(make: Callable[[], bytes], tmp_path: Path) -> None:
    (tmp_path / "file.pth").write_bytes(make())
    error = refuse(tmp_path / "file.pth")
    for advice in ("weights_only", "safe_globals", "trust"):
        assert advice not in error.message + error.hint
    assert len(error.message) < 300 + len(str(tmp_path))


def test_keys_of_a_foreign_file_are_shown_short_and_without_control_characters(
    state: State, tmp_path: Path
) -> None:
    message = refuse(save(tmp_path, {**state, "\x1b[31m": state[KEY], "x" * 10_000: state[KEY]}))
    assert "\\x1b[31m" in message.message
    assert len(message.message) < 500 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("container", "prefix"),
    [
        ("state_dict", "_orig_mod."),
        ("model", "module._orig_mod."),
        ("state_dict", "model."),
        ("state_dict", "model._orig_mod."),
        ("model_state_dict", ""),
        ("ema_state_dict", "module."),
        ("ema", "ema_model."),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_wrappers_of_training_programs_load(
    state: State, tmp_path: Path, container: str, prefix: str, dtype: torch.dtype
) -> None:
    wrapped = {prefix + key: tensor.to(dtype) for key, tensor in state.items()}
    path = save(tmp_path, {container: wrapped, "epoch": 3, "pytorch-lightning_version": "2.5"})
    model, report = load_model(get_spec("fdvit_demo"), path)
    assert report.container == container
    assert torch.equal(model.state_dict()[KEY], state[KEY].to(dtype).float())


def test_a_compiled_part_of_a_model_loads(state: State, tmp_path: Path) -> None:
    keys = {key.replace("blocks.0.", "blocks.0._orig_mod."): t for key, t in state.items()}
    assert keys.keys() != state.keys()
    load_model(get_spec("fdvit_demo"), save(tmp_path, keys))


def test_what_stands_next_to_the_model_is_reported(state: State, tmp_path: Path) -> None:
    """As torch's AveragedModel and Lightning modules with a loss write it."""
    averaged = {"n_averaged": torch.tensor(3)} | {f"module.{k}": t for k, t in state.items()}
    _, report = load_model(get_spec("fdvit_demo"), save(tmp_path, averaged))
    assert report.keys_with("not model") == ("n_averaged",)
    lightning = {f"model.{k}": t for k, t in state.items()} | {"criterion.weight": torch.ones(3)}
    _, report = load_model(get_spec("fdvit_demo"), save(tmp_path, {"state_dict": lightning}))
    assert report.keys_with("not model") == ("criterion.weight",)
