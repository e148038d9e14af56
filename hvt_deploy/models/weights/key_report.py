"""What becomes of each key of a checkpoint when it fills a model, decided from names and shapes
alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from hvt_deploy.models.family import Family
from hvt_deploy.models.spec import ModelSpec

__all__ = ["Fate", "KeyFate", "decide_fates", "summarize_fates"]

Fate = Literal[
    "loaded",
    "train-only",
    "recomputed",
    "given by its alias",
    "unused at this size",
    "head not wanted",
    "not encoder",
]
_MEANINGS: Mapping[Fate, str] = {
    "loaded": "loaded",
    "train-only": "dropped: of use in training only",
    "recomputed": "dropped: the model computes it itself",
    "given by its alias": "not read: the same parameter's second name wins",
    "unused at this size": "dropped: the model has no such part at this image size",
    "head not wanted": "dropped: the model was made without a head",
    "not encoder": "dropped: only the encoder is the model",
}
_ENCODER = "encoder."
_COUNTER = ".num_batches_tracked"


@dataclass(frozen=True)
class KeyFate:
    """One key of a file. `target` is the model's name for it, which an alias or a prefix makes
    another.
    """

    key: str
    fate: Fate
    target: str

    @property
    def meaning(self) -> str:
        """The fate in words."""
        return (
            f"loaded as {self.target}"
            if self.fate == "loaded" and self.target != self.key
            else _MEANINGS[self.fate]
        )


def decide_fates(
    keys: Iterable[str], wanted: Iterable[str], spec: ModelSpec, family: Family
) -> tuple[KeyFate, ...]:
    """The fate of every key of a file in a model that needs the keys `wanted` at inference.

    A key that nothing explains counts as `loaded`: whether the model has it is for the caller to
    check.
    """
    keys, wanted = tuple(keys), frozenset(wanted)
    encoder_only = min(keys, default="").startswith("encoder") and not any(
        key.startswith(_ENCODER) for key in wanted
    )
    targets = {
        key: _canonical(key.removeprefix(_ENCODER) if encoder_only else key, family) for key in keys
    }
    heads = tuple(f"{path}." for path in spec.heads)
    headless = not any(key.startswith(heads) for key in wanted)
    by_alias = {target for key, target in targets.items() if not key.endswith(target)}

    def fate_of(key: str) -> Fate:
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

    return tuple(KeyFate(key, fate_of(key), targets[key]) for key in keys)


def summarize_fates(fates: Iterable[KeyFate]) -> Mapping[str, int]:
    """How many keys met each fate, the frequent ones first."""
    return dict(Counter(fate.fate for fate in fates).most_common())


def _canonical(key: str, family: Family) -> str:
    for alias, canonical in family.aliases:
        if key.endswith(alias):
            return key.removesuffix(alias) + canonical
    return key
