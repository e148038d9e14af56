"""`models`: facts of every model, and the check against logits of the official code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hvt_deploy.core.environment import require
from hvt_deploy.core.ui import Ui
from hvt_deploy.models.registry import get_spec, list_specs
from hvt_deploy.models.spec import ModelCost, ModelSpec, Published

if TYPE_CHECKING:
    from hvt_deploy.models.golden_check import GoldenCheck


@dataclass(frozen=True)
class ListedModel:
    """One line of the list."""

    name: str
    """Name in the registry."""
    family: str
    """Name of its family."""
    image_size: tuple[int, int]
    """(height, width)."""
    num_classes: int
    """Classes of the head."""
    published: Published | None
    """The paper's table."""
    measured: ModelCost | None
    """Parameters and MACs of the reference form; `inspect` counts those of an exported graph."""
    code_licence: str
    """Licence of the official code, or "not stated"."""
    weights_licence: str
    """Licence of the official weights, or "not stated"."""

    def cells(self) -> dict[str, str]:
        """The line as column -> text."""
        published, measured = self.published, self.measured
        return {
            "model": self.name,
            "input": "x".join(map(str, self.image_size)),
            "top-1": _write(published and published.top1),
            "top-5": _write(published and published.top5),
            "params M": f"{measured.params / 1e6:.2f}" if measured else "",
            "published": _write(published and published.params_m),
            "MACs G": f"{measured.macs / 1e9:.2f}" if measured else "",
            "FLOPs G": _write(published and published.flops_g),
            "code": self.code_licence,
            "weights": self.weights_licence,
        }


def _write(published: float | None) -> str:
    """With the digits of the paper: 82.1 is not 82.10."""
    return "" if published is None else str(published)


def describe_columns(listed: Sequence[ListedModel]) -> Sequence[str]:
    """What the table's MACs and published FLOPs are, a line each."""
    models: dict[str, list[str]] = {}
    for model in listed:
        if model.published and model.published.flops_note:
            models.setdefault(model.published.flops_note, []).append(model.name)
    return (
        "MACs: of the reference form, with attention products; those of a graph: inspect.",
        "FLOPs: multiply-accumulates as published.",
        *(f"FLOPs {note}: {', '.join(names)}." for note, names in models.items()),
    )


def list_models() -> list[ListedModel]:
    """Every model with a name, families together; `timm:NAME` and own HVT files are not listed."""
    return [_to_listed(spec) for spec in list_specs()]


def _to_listed(spec: ModelSpec) -> ListedModel:
    return ListedModel(
        spec.name,
        spec.family,
        spec.image_size,
        spec.num_classes,
        spec.published,
        spec.measured,
        spec.code_licence,
        spec.weights_licence,
    )


def verify_model(name: str, ui: Ui) -> list[GoldenCheck]:
    """Both forms of a model against the recorded logits of the official code.

    Raises BadInput without a record.
    """
    get_spec(name)
    require("torch", extra="export")
    from hvt_deploy.models.golden_check import check_model

    with ui.progress(f"Verifying {name}") as progress:
        return check_model(name, progress)
