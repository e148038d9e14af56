"""`config`: writes a model's configuration file from its spec."""

from __future__ import annotations

from pathlib import Path

from hvt_deploy.core.model_options import DEFAULT_OPTIONS, ModelOptions
from hvt_deploy.core.run_config import RunConfig, dump_config
from hvt_deploy.models.int8_defaults import find_int8_defaults
from hvt_deploy.models.registry import get_spec, list_specs


def config_of(
    model: str, image_size: tuple[int, int] | None = None, options: ModelOptions = DEFAULT_OPTIONS
) -> RunConfig:
    """The default configuration of a model.

    Raises BadInput for an unknown name, with the nearest ones, and for a size or options the model
    does not take.
    """
    spec = get_spec(model, image_size, options)
    return RunConfig(
        model=spec.name,
        num_classes=spec.num_classes,
        preprocessing=spec.preprocessing,
        quantization=find_int8_defaults(spec.family),
        options=spec.options,
    )


def write_configs(folder: Path) -> tuple[Path, ...]:
    """Write `<model>.yaml` for every model with a name into `folder`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for spec in list_specs():
        path = folder / f"{spec.name}.yaml"
        path.write_text(dump_config(config_of(spec.name)), encoding="utf-8")
        written.append(path)
    return tuple(written)
