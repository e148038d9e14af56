"""`config`: writes a model's configuration file from its spec."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import cast

import yaml

from hvt_deploy.core.errors import BadInput, unknown_name
from hvt_deploy.core.files import write_whole
from hvt_deploy.core.model_options import DEFAULT_OPTIONS, ModelOptions, is_onnx_file
from hvt_deploy.core.run_config import (
    ExportConfig,
    RunConfig,
    check_model,
    dump_config,
    load_config,
)
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.yaml_file import read_yaml
from hvt_deploy.models.factory.spec import is_factory
from hvt_deploy.models.int8_defaults import find_int8_defaults
from hvt_deploy.models.registry import get_spec, list_specs

_PAIR = re.compile(r"(\w+)=(\[[^\]=]*\]|[\w.+-]+)")
_ADVICE = (
    "Give a file with the section `preprocessing` of a configuration, the name of a model, or "
    "key=value pairs: --preprocessing crop_pct=0.9,mean=[0.5,0.5,0.5],std=[0.5,0.5,0.5]"
)


def config_of(
    model: str,
    image_size: tuple[int, int] | None = None,
    options: ModelOptions = DEFAULT_OPTIONS,
    num_classes: int | None = None,
    ui: Ui | None = None,
) -> RunConfig:
    """The default configuration of a model.

    `num_classes` is handed to the factory of a `module:factory`, whose code runs: that is said to
    `ui`. Raises BadInput for an unknown name, with the nearest ones, for a size or options the
    model does not take, and for a factory that fails.
    """
    if ui is not None and is_factory(model):
        ui.say(f"Running {model}: its code runs with your rights, here and in later commands.")
    spec = get_spec(model, image_size, options, num_classes)
    return RunConfig(
        model=spec.name,
        num_classes=num_classes or spec.num_classes,
        preprocessing=spec.preprocessing,
        quantization=find_int8_defaults(spec.family),
        options=spec.options,
        export=ExportConfig(opset=spec.opset, batch=spec.batch),
    )


def config_of_file(path: Path, model: str, num_classes: int | None, ui: Ui) -> RunConfig:
    """The configuration in a file, which has to be one of `model`; a factory runs, and an ONNX
    file is read, again.

    Raises BadInput as `load_config` and `config_of`.
    """
    config = load_config(path)
    if not (is_factory(model) or is_onnx_file(model)):
        check_model(config, config_of(model).model, path)
        return config
    check_model(config, model, path)
    source = config.options.factory
    if num_classes is None and source is not None and source.takes_num_classes:
        num_classes = config.num_classes
    size = config.preprocessing.image_size
    fresh = config_of(model, size, num_classes=num_classes, ui=ui)
    return replace(config, options=fresh.options, num_classes=fresh.num_classes)


def read_preprocessing(text: str) -> dict[str, object]:
    """Settings of the section `preprocessing`, by key, from what --preprocessing was given.

    That is a YAML or JSON file of the section, a model whose preprocessing is taken, or
    `key=value` pairs such as `crop_pct=0.9,mean=[0.5,0.5,0.5]`. Raises BadInput for anything else.
    """
    if Path(text).is_file():
        found = read_yaml(Path(text), _ADVICE)
    elif "=" in text:
        pairs = _PAIR.findall(text)
        found = {key: yaml.safe_load(value) for key, value in pairs}
        if _PAIR.sub("", text).strip(", ") or len(found) < len(pairs):
            raise BadInput(f"--preprocessing {text} is not a list of key=value.", _ADVICE)
        if "image_size" in found:
            raise BadInput("The image size is no setting of --preprocessing.", "Give --image-size.")
    else:
        found = {**to_plain(get_spec(text).preprocessing)}
        del found["image_size"]
    known = {field.name for field in fields(Preprocessing)}
    if not isinstance(found, dict) or not found:
        raise BadInput(f"--preprocessing {text} has no settings.", _ADVICE)
    settings = cast("dict[str, object]", found)
    for key in settings:
        if key not in known:
            raise unknown_name("setting of preprocessing", key, known)
    return settings


def write_configs(folder: Path) -> tuple[Path, ...]:
    """Write `<model>.yaml` for every model with a name into `folder`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for spec in list_specs():
        path = folder / f"{spec.name}.yaml"
        write_whole(path, dump_config(config_of(spec.name)))
        written.append(path)
    return tuple(written)
