"""Configurations and recipes: YAML that is none or too much, and values out of their range."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import yaml
from kinds import Kind

_COMMANDS = {
    "export": ("export", "hvt_demo", "--force", "--config", "bad.yaml"),
    "quantize": ("quantize", "--int8", "--config", "bad.yaml"),
    "build-trt": ("build-trt", "--config", "bad.yaml"),
    "validate": ("validate", "--data", "validation", "--config", "bad.yaml"),
    "diagnose": ("diagnose", "--config", "bad.yaml"),
}
_RECIPE = ("quantize", "--int8", "--recipe", "bad.yaml")
_BOMB = "a: &a [x]\n" + "\n".join(
    f"{name}: &{name} [*{before}, *{before}]"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
TEXTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "expected a mapping"),
    "text": (b"hello", "expected a mapping"),
    "a list": (b"- 1\n- 2\n", "expected a mapping"),
    "no YAML": (b"a: [1, 2", "not valid YAML"),
    "tabs": (b"a:\n\t- 1", "not valid YAML"),
    "aliases": (_BOMB.encode(), "an alias"),
    "a key twice": (b"model: a\nmodel: b\n", "the key model twice"),
    "nested deep": (b"[" * 30_000, "nested too deep|not valid YAML"),
    "a tag that runs a program": (
        b"!!python/object/apply:os.system ['touch attacked']",
        "not valid YAML",
    ),
    "UTF-16": ("model: a".encode("utf-16"), "not valid YAML"),
    "bytes that are no text": (b"\xff\x00\x80", "not valid YAML"),
    "100 KB": (b"# " + b"x" * 100_000, "more than 64 KiB"),
    "a list as a key": (b"? [1]\n: 2\n", "not valid YAML"),
    "an impossible date": (b"model: 2020-99-99\n", "not valid YAML"),
    "an unknown key": (b"modle: hvt_demo\n", "unknown key"),
    "a missing key": (b"model: hvt_demo\n", "missing key|unknown key"),
}
# By dotted key: a value that is none, and its message.
VALUES: tuple[tuple[str, object, str], ...] = (
    ("model", "fdvit_demo", "is a configuration of fdvit_demo"),
    ("model", 3, "expected str"),
    ("model", None, "expected str"),
    ("num_classes", 0, "expected 1 to"),
    ("num_classes", 10**12, "expected 1 to"),
    ("preprocessing.crop_pct", 0, "crop_pct"),
    ("preprocessing.crop_pct", -1, "crop_pct"),
    ("preprocessing.std", [0, 0, 0], "std"),
    ("preprocessing.mean", [0.5], "mean"),
    ("preprocessing.image_size", [0, 32], "image_size"),
    ("preprocessing.image_size", [10**6, 10**6], "image_size"),
    ("preprocessing.interpolation", "nonsense", "interpolation"),
    ("export.opset", 99, "Opset 99"),
    ("export.opset", -1, "Opset -1"),
    ("export.batch", 0, "batch"),
    ("export.batch", 10**9, "batch"),
    ("export.simplifier", "magic", "simplifier"),
    ("export.weights", 3, "weights"),
    ("export.seed", -1, "seed"),
    ("export.seed", 2**70, "seed"),
    ("export.preprocess_in_graph", "yes", "preprocess_in_graph"),
    ("quantization.calibrator", "magic", "calibrator"),
    ("quantization.excluded", ["no/group"], "no/group"),
    ("quantization.int8_roles.rtx", ["magic"], "magic"),
    ("quantization.recovery", ["magic"], "recovery"),
    ("quantization.int8_attention", True, "int8_attention"),
    ("calibration.images", 0, "images"),
    ("calibration.batch_size", -8, "batch_size"),
    ("calibration.folder", "", "folder|calib"),
    ("engine.precision", "fp4", "precision"),
    ("engine.profiles", [[8, 1, 32]], "profile|MIN"),
    ("engine.profiles", [[1, 8]], "expected 3 values"),
    ("engine.profiles", [[0, 1, 2]], "expected 1 to"),
    ("engine.compute_capabilities", ["8"], "compute capabilit|8"),
    ("engine.workspace_mib", -1, "workspace_mib"),
    ("engine.flavour", "magic", "flavour"),
    ("validation.limit", 0, "limit"),
    ("validation.batch_size", 0, "batch_size"),
    ("validation.threads", 1_000_000, "threads"),
    ("validation.threads", -1, "threads"),
    ("validation.device", "tpu", "tpu"),
    ("validation.latency_batches", [], "latency_batches"),
    ("validation.latency_batches", [0], "latency_batches"),
    ("validation.margin", float("nan"), "margin"),
    ("validation.max_top1_drop", float("inf"), "max_top1_drop"),
    ("validation.backends", [], "backends"),
    ("validation.backends", ["magic"], "magic"),
    ("validation.subset", "imagenet-z", "subset"),
)
NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "There is no file bad.yaml"),
    "a folder": (Path.mkdir, "cannot be read|is not a file"),
    "a pipe": (os.mkfifo, "cannot be read|is not a file"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "cannot be read|no file"),
    "a link to an endless device": (
        lambda path: path.symlink_to("/dev/zero"),
        "more than 64 KiB|is not a file",
    ),
}


def _command_for(key: str) -> tuple[object, ...]:
    section = key.partition(".")[0]
    by_section = {"quantization": "quantize", "calibration": "quantize", "engine": "build-trt"}
    by_section |= {"validation": "validate"}
    return _COMMANDS[by_section.get(section, "export")]


def _put_value(key: str, value: object, place: Path) -> None:
    fields = yaml.safe_load((place / "configs/hvt_demo.yaml").read_text())
    fields["engine"]["precision"] = "fp32"
    *sections, name = key.split(".")
    at = fields
    for section in sections:
        at = at[section]
    at[name] = value
    (place / "bad.yaml").write_text(yaml.safe_dump(fields))


def _put_text(content: bytes, place: Path) -> None:
    (place / "bad.yaml").write_bytes(content)


def _put_no_file(put: Callable[[Path], object], place: Path) -> None:
    put(place / "bad.yaml")


_OTHERS: tuple[tuple[str, object], ...] = (
    ("num_classes", 7),
    ("preprocessing.mean", [0.1, 0.1, 0.1]),
    ("preprocessing.image_size", [64, 64]),
)


def _list_kinds() -> Iterator[Kind]:
    for fault, (content, sentence) in TEXTS.items():
        prepare = partial(_put_text, content)
        yield Kind("configuration", fault, _COMMANDS["validate"], sentence, prepare)
        yield Kind("recipe", fault, _RECIPE, sentence, prepare)
    for key, value, sentence in VALUES:
        fault = f"{key} is {json.dumps(value)}"
        yield Kind(
            "configuration", fault, _command_for(key), sentence, partial(_put_value, key, value)
        )
    for key, value in _OTHERS:
        for name in ("quantize", "validate"):
            fault, prepare = f"{key} is another than the export's", partial(_put_value, key, value)
            sentence = "has another `.*` than the export"
            yield Kind(f"configuration of {name}", fault, _COMMANDS[name], sentence, prepare)
    for fault, (put, sentence) in NO_FILES.items():
        for name, command in _COMMANDS.items():
            if name in ("export", "quantize") or fault == "missing":
                prepare = partial(_put_no_file, put)
                yield Kind(f"configuration of {name}", fault, command, sentence, prepare)


KINDS = tuple(_list_kinds())
