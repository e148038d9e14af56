"""The status of each key of a checkpoint that fills a model, from names and shapes alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from hvt_deploy.models.family import Family
from hvt_deploy.models.spec import ModelSpec

Status = Literal[
    "loaded",
    "train-only",
    "recomputed",
    "given by its alias",
    "unused at this size",
    "head not wanted",
    "not encoder",
    "not model",
]
_MEANINGS: Mapping[Status, str] = {
    "loaded": "loaded",
    "train-only": "dropped: of use in training only",
    "recomputed": "dropped: the model computes it itself",
    "given by its alias": "not read: the same parameter's second name wins",
    "unused at this size": "dropped: the model has no such part at this image size",
    "head not wanted": "dropped: the model was made without a head",
    "not encoder": "dropped: only the encoder is the model",
    "not model": "dropped: next to the model, as of a loss or a metric",
}
_ENCODER = "encoder."
_COUNTER = ".num_batches_tracked"


@dataclass(frozen=True)
class KeyStatus:
    """One key of a file.

    Attributes:
        key: Its name in the file.
        status: Whether it is loaded, and if not, why.
        target: The model's name for it: another one where `key` is an alias or has a prefix.
    """

    key: str
    status: Status
    target: str

    @property
    def meaning(self) -> str:
        """The status as a phrase."""
        return (
            f"loaded as {self.target}"
            if self.status == "loaded" and self.target != self.key
            else _MEANINGS[self.status]
        )


def classify_keys(
    keys: Iterable[str], wanted: Iterable[str], spec: ModelSpec, family: Family
) -> tuple[KeyStatus, ...]:
    """The status of every key of a file in a model that needs the keys `wanted` at inference.

    A key that nothing explains counts as `loaded`: whether the model has it is for the caller to
    check.
    """
    keys, ordered = tuple(keys), tuple(wanted)
    wanted = frozenset(ordered)
    names: Mapping[str, str] = family.translate(keys, ordered) if family.translate else {}
    encoder_only = min(keys, default="").startswith("encoder") and not any(
        key.startswith(_ENCODER) for key in wanted
    )
    targets = {
        key: names.get(key)
        or _canonical(key.removeprefix(_ENCODER) if encoder_only else key, family)
        for key in keys
    }
    heads = tuple(f"{path}." for path in spec.heads)
    headless = not any(key.startswith(heads) for key in wanted)
    by_alias = {target for key, target in targets.items() if not key.endswith(target)}

    def status_of(key: str) -> Status:
        target = targets[key]
        if encoder_only and not key.startswith(_ENCODER):
            return "not encoder"
        if target.startswith(family.train_only_prefixes):
            return "train-only"
        if target.endswith(family.recomputed_suffixes):
            return "recomputed"
        if target in by_alias and key.endswith(target):
            return "given by its alias"
        if target not in wanted:
            if target.endswith(_COUNTER):
                return "train-only"
            if spec.resizable and any(part in target for part in family.size_dependent):
                return "unused at this size"
            if headless and target.startswith(heads):
                return "head not wanted"
        return "loaded"

    return tuple(KeyStatus(key, status_of(key), targets[key]) for key in keys)


def count_statuses(keys: Iterable[KeyStatus]) -> Mapping[str, int]:
    """How many keys have each status, the frequent ones first."""
    return dict(Counter(key.status for key in keys).most_common())


def _canonical(key: str, family: Family) -> str:
    for alias, canonical in family.aliases:
        if key.endswith(alias):
            return key.removesuffix(alias) + canonical
    return key
