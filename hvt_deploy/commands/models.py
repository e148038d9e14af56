"""`models`: facts of every model, and the check against logits of the official code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from hvt_deploy.core.environment import require
from hvt_deploy.core.errors import unknown_name
from hvt_deploy.core.ui import Ui
from hvt_deploy.models.registry import get_spec, list_specs
from hvt_deploy.models.spec import ModelCost, ModelSpec, Published
from hvt_deploy.models.timm.spec import PREFIX, match_timm

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
        identity = {"model": self.name, "input": "x".join(map(str, self.image_size))}
        if self.family == "timm":
            return {**identity, "classes": str(self.num_classes), "weights": self.weights_licence}
        published, measured = self.published, self.measured
        return {
            **identity,
            "top-1": _write(published and published.top1),
            "top-5": _write(published and published.top5),
            "params M": f"{measured.params / 1e6:.2f}" if measured else "",
            "MACs G": f"{measured.macs / 1e9:.2f}" if measured else "",
            "FLOPs G": _write(published and published.flops_g),
        }


def _write(published: float | None) -> str:
    """With the digits of the paper: 82.1 is not 82.10."""
    return "" if published is None else str(published)


def describe_columns(listed: Sequence[ListedModel]) -> Sequence[str]:
    """What a table of papers' models does not say by itself, a line each."""
    flops, licences = dict[str, list[str]](), dict[str, list[str]]()
    differing: list[str] = []
    for model in listed:
        if model.published and model.published.flops_note:
            flops.setdefault(model.published.flops_note, []).append(model.name)
        if model.published and model.measured and _differs(model.published, model.measured):
            differing.append(f"{model.name} {model.published.params_m} M")
        licence = f"code {model.code_licence}, weights {model.weights_licence}"
        suffix = model.name.rpartition("_")[2]
        group = suffix if suffix in ("demo", "elpv") else model.family
        licences.setdefault(licence, []).append(group)
    return (
        "top-1, top-5, FLOPs: as published; FLOPs are multiply-accumulates.",
        "MACs: of the reference form, with attention products; those of a graph: inspect.",
        *(f"FLOPs {note}: {', '.join(names)}." for note, names in flops.items()),
        *([f"Parameters published otherwise: {', '.join(differing)}."] if differing else []),
        *(f"Licence of {', '.join(dict.fromkeys(g))}: {what}." for what, g in licences.items()),
    )


def _differs(published: Published, measured: ModelCost) -> bool:
    return abs(published.params_m - measured.params / 1e6) > 0.01 * published.params_m


def list_models(patterns: Sequence[str] = (), family: str | None = None) -> list[ListedModel]:
    """The models with a name that one of `patterns` (shell wildcards) stands for, families
    together; those of timm where a pattern begins with `timm:`. Own HVT files are not listed.

    Raises BadInput for an unknown family and for a pattern that stands for none.
    """
    specs = list_specs()
    families = tuple(dict.fromkeys(spec.family for spec in specs))
    if family is not None and family not in families:
        raise unknown_name("family", family, families)
    chosen = [spec for spec in specs if family in (None, spec.family)]
    own = [pattern for pattern in patterns if not pattern.startswith(PREFIX)]
    for pattern in own:
        if not any(fnmatch(spec.name, pattern) for spec in chosen):
            raise unknown_name("model", pattern, [spec.name for spec in chosen])
    if patterns:
        chosen = [spec for spec in chosen if any(fnmatch(spec.name, p) for p in own)]
    of_timm = [pattern for pattern in patterns if pattern.startswith(PREFIX)]
    return [*map(_to_listed, chosen), *map(_to_listed, match_timm(of_timm) if of_timm else ())]


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
