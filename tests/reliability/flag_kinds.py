"""Flags: values of the wrong type, out of range, unknown, missing or against each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import typer
from kinds import Kind

from hvt_deploy.cli import app

_DATA = ("--data", "validation")
_INT8 = ("--int8", "--calib", "calibration", "--calib-images", 4)
# Each command with the arguments that it needs.
COMMANDS: dict[str, tuple[object, ...]] = {
    "export": ("export", "hvt_demo"),
    "quantize": ("quantize", *_INT8),
    "build-trt": ("build-trt",),
    "inspect": ("inspect", "hvt_demo"),
    "validate": ("validate", *_DATA),
    "report": ("report",),
    "diff": ("diff",),
    "sweep": ("sweep", "--models", "hvt_demo", *_DATA),
    "diagnose": ("diagnose",),
    "predict": ("predict", "validation/0/0.png"),
    "package": ("package", "--triton", "new"),
    "bundle": ("bundle",),
    "deploy": ("deploy", "hvt_demo.tar", *_DATA),
    "demo": ("demo", "--output", "new"),
    "models": ("models",),
    "doctor": ("doctor",),
    "config": ("config", "hvt_demo"),
}
_NUMBER = "valid (int|float|number)"
_RANGE = "than or equal to|is not in the range"


def _list_usage() -> Iterator[Kind]:
    """What the parser refuses, for every flag of every command."""
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        start = COMMANDS.get(name, (name,))
        yield Kind("flag", f"{name}: unknown", (*start, "--no-such-flag"), "No such option")
        for option in command.params:
            flag = max(option.opts, key=len)
            if not flag.startswith("--") or flag == "--help":
                continue
            kind = str(option.type_descriptor.annotation)
            if not option.is_flag:
                yield Kind(
                    "flag", f"{name} {flag}: no value", (*start, flag), "requires an argument"
                )
            if "int'" in kind or "float'" in kind or kind == "list[int]":
                arguments = (*start, flag, "many")
                yield Kind("flag", f"{name} {flag}: no number", arguments, _NUMBER)
            if option.min is not None:
                arguments = (*start, flag, option.min - 1)
                yield Kind("flag", f"{name} {flag}: below its range", arguments, _RANGE)
            if option.max is not None:
                arguments = (*start, flag, option.max + 1)
                yield Kind("flag", f"{name} {flag}: above its range", arguments, _RANGE)
            if "Literal" in kind:
                yield Kind(
                    "flag",
                    f"{name} {flag}: unknown",
                    (*start, flag, "magic"),
                    "is not one of|Input should be .* or",
                )


_EXPORT, _QUANTIZE, _BUILD = COMMANDS["export"], COMMANDS["quantize"], COMMANDS["build-trt"]
_VALIDATE = COMMANDS["validate"]
REFUSED: tuple[tuple[str, tuple[object, ...], str], ...] = (
    ("an unknown command", ("magic",), "No such command"),
    ("export: no model", ("export",), "Missing argument"),
    ("export: an unknown model", ("export", "resnet"), "Unknown model 'resnet'"),
    ("export: a misspelt model", ("export", "hvt_demoo"), "Did you mean hvt_demo"),
    ("export: an empty model", ("export", ""), "Unknown model"),
    ("export: two models", ("export", "hvt_demo", "hvt_s_0"), "unexpected extra argument"),
    ("export: an unknown model of timm", ("export", "timm:magic"), "magic"),
    ("export --opset: 99", (*_EXPORT, "--opset", 99), "Opset 99 is not supported"),
    ("export --opset: 99 with --dry-run", (*_EXPORT, "--opset", 99, "--dry-run"), "Opset 99"),
    ("export --opset: 16", (*_EXPORT, "--opset", 16), "Opset 16 is not supported"),
    ("export --as: a path", (*_EXPORT, "--as", "../x"), "cannot be a folder name"),
    ("export --as: empty", (*_EXPORT, "--as", ""), "cannot be a folder name"),
    ("export --as: hidden", (*_EXPORT, "--as", ".x"), "cannot be a folder name"),
    ("export --as: absolute", (*_EXPORT, "--as", "/x"), "cannot be a folder name"),
    ("export --as: too long", (*_EXPORT, "--as", "x" * 300), "too long"),
    ("export --as: a line break", (*_EXPORT, "--as", "a\nb"), "cannot be a folder name"),
    ("export --image-size: no size", (*_EXPORT, "--image-size", "big"), "is not HEIGHTxWIDTH"),
    ("export --image-size: zero", (*_EXPORT, "--image-size", "0x0"), "is not HEIGHTxWIDTH"),
    ("export --image-size: negative", (*_EXPORT, "--image-size", "-8x8"), "is not HEIGHTxWIDTH"),
    ("export --image-size: one model has its own", (*_EXPORT, "--image-size", "64x64"), "size"),
    (
        "export --image-size: endless",
        (
            "export",
            "faster_vit_0_any_res",
            "--image-size",
            f"{10**9}x{10**9}",
            "--weights",
            "random",
        ),
        "size|memory",
    ),
    (
        "export --window-size: with --config",
        (*_EXPORT, "--window-size", "7,7,7,7", "--config", "configs/hvt_demo.yaml"),
        "sizes were given with a configuration",
    ),
    ("export --window-size: no sizes", (*_EXPORT, "--window-size", "a,b"), "not a list of window"),
    ("export --window-size: of another family", (*_EXPORT, "--window-size", "7,7"), "window"),
    (
        "export --window-size: zero",
        ("export", "faster_vit_0_any_res", "--window-size", "0,0,0,0"),
        "window_size|do not fit",
    ),
    (
        "export --window-size: one too few",
        ("export", "faster_vit_0_any_res", "--window-size", "7,7,7"),
        "window",
    ),
    (
        "export --carrier-token-size: of another family",
        (*_EXPORT, "--carrier-token-size", 2),
        "carrier",
    ),
    ("export --seed: negative", (*_EXPORT, "--weights", "random", "--seed", -1), "seed"),
    ("export --seed: too large", (*_EXPORT, "--weights", "random", "--seed", 2**80), "seed"),
    (
        "export --weights: a misspelt choice",
        (*_EXPORT, "--weights", "oficial"),
        "no checkpoint file",
    ),
    (
        "export --weights: official without any",
        ("export", "hvt_demo", "--weights", "official", "--config", "none"),
        "no file none",
    ),
    ("export --workspace: a file", (*_EXPORT, "--workspace", "notes.txt"), "notes.txt"),
    (
        "an unknown exported model",
        ("predict", "validation", "--model", "magic"),
        "Unknown exported",
    ),
    ("a workspace that is missing", ("report", "--workspace", "none"), "Nothing was exported"),
    ("a workspace that is a file", ("report", "--workspace", "notes.txt"), "Nothing was exported"),
    ("quantize: two precisions", ("quantize", "--fp16", "--int8"), "Several precisions"),
    ("quantize --calib: empty", ("quantize", "--int8", "--calib", ""), "no folder without a name"),
    ("quantize --seed: negative", (*_QUANTIZE, "--seed", -1), "seed"),
    ("quantize --budget: NaN", (*_QUANTIZE, "--budget", "nan"), "budget"),
    ("quantize --budget: negative", (*_QUANTIZE, "--budget", -1), "budget"),
    ("quantize --budget: infinite", (*_QUANTIZE, "--budget", "inf"), "budget"),
    ("quantize --budget: too few images", (*_QUANTIZE, "--budget", 0.1), "images"),
    (
        "quantize --budget-data: missing",
        (*_QUANTIZE, "--budget", 50, "--budget-data", "none"),
        "none does not exist",
    ),
    ("quantize --recipe: missing", (*_QUANTIZE, "--recipe", "none.yaml"), "There is no file"),
    ("build-trt: an unknown precision", (*_BUILD, "--precision", "fp4"), "Unknown precision 'fp4'"),
    ("build-trt --profile: no profile", (*_BUILD, "--profile", "8"), "profile"),
    ("build-trt --profile: falling", (*_BUILD, "--profile", "8,4,1"), "profile|MIN"),
    ("build-trt --profile: zero", (*_BUILD, "--profile", "0,1,2"), "profile|expected 1"),
    ("build-trt --profile: endless", (*_BUILD, "--profile", f"1,1,{10**9}"), "is not a profile"),
    ("build-trt --profile: twenty", (*_BUILD, *(["--profile", "1,1,1"] * 20)), "profiles"),
    (
        "build-trt --compute-capability: no number",
        (*_BUILD, "--precision", "fp32", "--compute-capability", "new"),
        "compute capabilit",
    ),
    (
        "build-trt --min-int8: without INT8",
        (*_BUILD, "--precision", "fp32", "--min-int8", 0.5),
        "is a gate on INT8 engines",
    ),
    (
        "build-trt --max-traffic: NaN",
        (*_BUILD, "--precision", "fp32", "--max-traffic", "nan"),
        "max-traffic",
    ),
    ("build-trt: an unknown model", (*_BUILD, "magic"), "Unknown exported model"),
    ("inspect: nothing", ("inspect",), "Missing argument"),
    ("inspect: an unknown model", ("inspect", "magic"), "magic"),
    ("inspect: a folder", ("inspect", "validation"), "validation"),
    ("inspect: a text", ("inspect", "notes.txt"), "notes.txt"),
    ("validate --data: missing", ("validate", "--data", "none"), "none does not exist"),
    ("validate --data: empty", ("validate", "--data", ""), "fit no class|does not exist|no class"),
    ("validate --labels: missing", (*_VALIDATE, "--labels", "none"), "No file of labels"),
    ("validate --device: unknown", (*_VALIDATE, "--device", "tpu"), "tpu"),
    ("validate --device: negative", (*_VALIDATE, "--device", "cuda:-1"), "cuda:-1"),
    ("validate --backends: unknown", (*_VALIDATE, "--backends", "magic"), "magic"),
    ("validate --backends: empty", (*_VALIDATE, "--backends", ","), "backend"),
    ("validate --subset: of other classes", (*_VALIDATE, "--subset", "imagenet-a"), "imagenet-a"),
    ("validate --seed: negative", (*_VALIDATE, "--seed", -1), "seed"),
    ("validate --margin: NaN", (*_VALIDATE, "--margin", "nan"), "margin"),
    ("validate --max-top1-drop: NaN", (*_VALIDATE, "--max-top1-drop", "nan"), "max_top1_drop"),
    ("validate --max-top1-drop: negative", (*_VALIDATE, "--max-top1-drop", -5), "max_top1_drop"),
    ("validate --min-speedup: NaN", (*_VALIDATE, "--min-speedup", "nan"), "min_speedup"),
    ("validate --min-speedup: negative", (*_VALIDATE, "--min-speedup", -1), "min_speedup"),
    ("validate --max-latency-ms: negative", (*_VALIDATE, "--max-latency-ms", -1), "max_latency_ms"),
    (
        "validate --latency-batch: 17 of them",
        (*_VALIDATE, *(["--latency-batch", 1] * 17)),
        "latency_batches",
    ),
    ("report --output: a folder", ("report", "--output", "validation"), "validation"),
    ("report --output: in a missing folder", ("report", "--output", "none/r.html"), "none"),
    ("diff: one file", ("diff", "a.json"), "two files"),
    ("diff: missing files", ("diff", "a.json", "b.json"), "a.json"),
    ("diff --margin: NaN", ("diff", "--margin", "nan"), "margin"),
    ("sweep: no models", ("sweep", "--models", "", *_DATA), "No model was named"),
    ("sweep: unknown models", ("sweep", "--models", "resnet*", *_DATA), "Unknown model"),
    (
        "sweep --precisions: unknown",
        (*COMMANDS["sweep"], "--precisions", "fp4"),
        "Unknown precision 'fp4'",
    ),
    ("sweep --data: missing", ("sweep", "--models", "hvt_demo", "--data", "none"), "none does not"),
    ("sweep --output: a file", (*COMMANDS["sweep"], "--output", "notes.txt"), "notes.txt"),
    ("diagnose --graph: unknown", ("diagnose", "--graph", "magic"), "magic"),
    ("diagnose --data: missing", ("diagnose", "--data", "none"), "no calibration folder none"),
    ("diagnose --replay: missing", ("diagnose", "--replay", "none"), "none"),
    ("predict: nothing", ("predict",), "Missing argument"),
    ("predict: missing", ("predict", "none.png"), "none.png"),
    ("predict --backend: unknown", (*COMMANDS["predict"], "--backend", "magic"), "magic"),
    ("predict --device: unknown", (*COMMANDS["predict"], "--device", "tpu"), "tpu"),
    ("package --triton: a file", ("package", "--triton", "notes.txt"), "is not an empty folder"),
    (
        "package --triton: a full folder",
        ("package", "--triton", "validation"),
        "not an empty folder",
    ),
    ("bundle --output: a folder", ("bundle", "--output", "validation"), "validation"),
    ("bundle --output: in a missing folder", ("bundle", "--output", "none/b.tar"), "none"),
    ("deploy: nothing", ("deploy",), "Missing argument"),
    ("deploy: missing", ("deploy", "none.tar"), "There is no bundle none.tar"),
    ("deploy: a folder", ("deploy", "validation"), "There is no bundle validation"),
    ("deploy: two precisions", (*COMMANDS["deploy"], "--int8", "--fp16"), "Several precisions"),
    ("demo --family: unknown", ("demo", "--family", "swin"), "Unknown family 'swin'"),
    ("demo --output: a file", ("demo", "--output", "notes.txt"), "notes.txt"),
    ("models --verify: unknown", ("models", "--verify", "magic"), "magic"),
    ("doctor --sections: unknown", ("doctor", "--verify", "--sections", "magic"), "magic"),
    ("doctor --model: unknown", ("doctor", "--verify", "--model", "magic"), "magic"),
    ("config: nothing", ("config",), "No model was named"),
    ("config: an unknown model", ("config", "magic"), "Unknown model"),
    ("config --all: a file", ("config", "--all", "notes.txt"), "notes.txt"),
)


def _list_kinds() -> Iterator[Kind]:
    yield from _list_usage()
    for fault, arguments, sentence in REFUSED:
        yield Kind("flag", fault, arguments, sentence)
    for name in ("export", "validate", "quantize"):
        arguments = (*COMMANDS[name], "--config", "fifo")
        yield Kind("flag", f"{name} --config: a pipe", arguments, "is not a file", _put_pipe)


def _put_pipe(place: Path) -> None:
    os.mkfifo(place / "fifo")


KINDS = tuple(_list_kinds())
