"""`config`: writes a model's configuration file from its spec."""

from __future__ import annotations

from pathlib import Path

from hvt_deploy.config import QuantizationConfig, RunConfig, dump_config
from hvt_deploy.graph.roles import DEFAULT_INT8_ROLES
from hvt_deploy.models.registry import get_spec, list_specs


def config_of(model: str) -> RunConfig:
    """The default configuration of a model. Raises BadInput with the nearest names if it is unknown."""
    spec = get_spec(model)
    return RunConfig(
        model=spec.name,
        num_classes=spec.num_classes,
        preprocessing=spec.preprocessing,
        quantization=QuantizationConfig(int8_roles=tuple(DEFAULT_INT8_ROLES)),
    )


def write_configs(folder: Path) -> tuple[Path, ...]:
    """Write `<model>.yaml` for every model into `folder`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for spec in list_specs():
        path = folder / f"{spec.name}.yaml"
        path.write_text(dump_config(config_of(spec.name)), encoding="utf-8")
        written.append(path)
    return tuple(written)
