"""The names of a model's classes: ImageNet's, those of a user's file, or numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal, cast

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import read_text, reading
from hvt_deploy.core.records import parse_json
from hvt_deploy.data.assets import asset_path

How = Literal["wnid", "class name", "class number"]
HOWS: tuple[How, ...] = ("wnid", "class name", "class number")

# More than the names of any model's classes; of a larger file no more is read into memory.
MAX_NAMES_BYTES = 16 << 20

_LONGEST_NAME = 500
# Line breaks, which files with a name per line have no way to write, other control characters but
# the tab, and halves of characters, which no file can hold.
_NO_TEXT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_CHECKPOINT_FILES = ("class_indices.json", "classes_indices.json")
_WNID_LINE = re.compile(r"(n\d{8})(?:\s+(\S.*))?")


@dataclass(frozen=True)
class Match:
    """The classes that a text can mean."""

    how: How
    """The way in which they were found."""
    classes: tuple[int, ...]
    """One class number, or several if the names themselves are ambiguous."""


@dataclass(frozen=True)
class ClassNames:
    """The name of each class, in the order of the model's outputs.

    Raises BadInput for a name that is not one line of text.
    """

    names: tuple[str, ...]
    """Names, each with synonyms or not: "tench, Tinca tinca"; the first one is displayed."""
    wnids: tuple[str, ...] | None = None
    """The WordNet ids of ImageNet's classes."""
    source: str = field(default="", compare=False)
    """The file or folder that they come from; "" where nobody gave them."""

    def __post_init__(self) -> None:
        """Refuse names that reports and other programs cannot show."""
        for name in self.names:
            if len(name) > _LONGEST_NAME or _NO_TEXT.search(name):
                raise BadInput(
                    f"A class cannot be named {name!a:.80}.",
                    f"A name is one line of at most {_LONGEST_NAME} characters: give others with "
                    "--class-names FILE, or rename the folder.",
                )

    @property
    def are_numbers(self) -> bool:
        """Whether the classes have no names: "0", "1", ..."""
        return self == number_classes(len(self))

    def __len__(self) -> int:
        """The number of classes."""
        return len(self.names)

    def short(self, index: int) -> str:
        """The first synonym of a class: "tench"."""
        return _synonyms(self.names[index])[0]

    def find(self, text: str) -> Match | None:
        """The class that a folder name or a label means; None if there is none.

        It is searched by wnid, then by name, then by number. A name is matched as written, then
        ignoring case, and spaces, hyphens and underscores between words, then among the synonyms:
        ImageNet has a "crane" twice, and a "partridge" that is also a synonym of another class.
        """
        text = text.strip()
        if self.wnids is not None and text.lower() in self._by_wnid:
            return Match("wnid", self._by_wnid[text.lower()])
        for names, key in (
            (self._by_name, text),
            (self._by_loose_name, _loose(text)),
            (self._by_synonym, _loose(text)),
        ):
            if key in names:
                return Match("class name", names[key])
        number = _as_number(text)
        if number is not None and number < len(self.names):
            return Match("class number", (number,))
        return None

    def find_all(self, texts: Iterable[str]) -> tuple[dict[str, tuple[int, ...]], list[How]]:
        """The classes that each text can mean (none, one or several), and the ways in which they
        were found.
        """
        matches = {text: self.find(text) for text in texts}
        used = {match.how for match in matches.values() if match}
        return {text: match.classes if match else () for text, match in matches.items()}, [
            h for h in HOWS if h in used
        ]

    def refuse_ambiguous(self, what: str, found: Mapping[str, tuple[int, ...]]) -> None:
        """Raise BadInput for the first of `find_all`'s texts that means several classes."""
        for text, classes in found.items():
            if len(classes) > 1:
                options = (
                    f"{self.wnids[i] if self.wnids else i} ({self.names[i]})" for i in classes
                )
                raise BadInput(
                    f"The {what} '{text}' fits several classes: {', '.join(options)}.",
                    "Use a wnid or a class number.",
                )

    @cached_property
    def _by_wnid(self) -> dict[str, tuple[int, ...]]:
        return _index((wnid, i) for i, wnid in enumerate(self.wnids or ()))

    @cached_property
    def _by_name(self) -> dict[str, tuple[int, ...]]:
        return _index(
            (n, i) for i, name in enumerate(self.names) for n in (name, _synonyms(name)[0])
        )

    @cached_property
    def _by_loose_name(self) -> dict[str, tuple[int, ...]]:
        return _index(
            (_loose(n), i) for i, name in enumerate(self.names) for n in (name, _synonyms(name)[0])
        )

    @cached_property
    def _by_synonym(self) -> dict[str, tuple[int, ...]]:
        return _index((_loose(n), i) for i, name in enumerate(self.names) for n in _synonyms(name))


@lru_cache(maxsize=1)
def load_imagenet_1k() -> ClassNames:
    """The 1000 classes of ILSVRC-2012 in the order every ImageNet-1k classifier uses (sorted by
    wnid).

    Wnids and names (all lemmas of the synset) are WordNet 3.0's.
    """
    text = asset_path("imagenet_1k.txt").read_text(encoding="utf-8")
    return _from_lines(text, "imagenet_1k.txt")


def number_classes(num_classes: int) -> ClassNames:
    """Numbers as names, for a model without known names: "0", "1", ..."""
    return ClassNames(tuple(str(i) for i in range(num_classes)))


def default_class_names(num_classes: int) -> ClassNames:
    """ImageNet's names for 1000 classes, else numbers."""
    imagenet = load_imagenet_1k()
    return imagenet if num_classes == len(imagenet) else number_classes(num_classes)


def find_stated_names(
    num_classes: int, given: Path | None = None, checkpoint: Path | None = None
) -> ClassNames | None:
    """The names that somebody gave a model's classes: those of the `given` file, else of a
    `class_indices.json` (or `classes_indices.json`) next to the checkpoint; None without either.

    Raises BadInput if a file cannot be read or has another number of classes.
    """
    siblings = [checkpoint.parent / name for name in _CHECKPOINT_FILES] if checkpoint else []
    path = given or next((p for p in siblings if p.is_file()), None)
    if path is None:
        return None
    names = read_class_names(path)
    if len(names) != num_classes:
        raise BadInput(
            f"{path} names {len(names)} classes, but the model has {num_classes}.",
            "Give the names of this model's classes with --class-names FILE.",
        )
    return replace(names, source=str(path))


def read_class_names(path: Path) -> ClassNames:
    """Read class names from JSON (`{"0": "daisy"}`, `{"daisy": 0}` or a list) or from text, one a
    line.

    A text file whose every line starts with a wnid (`n01440764 tench, Tinca tinca`) gives the wnids
    too. Raises BadInput for a missing file, another shape, a missing, doubled or empty class.
    """
    with reading(path):
        if not path.exists():
            raise BadInput(
                f"No file of class names at {path}.", "Give one with --class-names FILE."
            )
    text = read_text(path, MAX_NAMES_BYTES)
    if path.suffix.lower() == ".json":
        return _from_json(text, path)
    return _from_lines(text, str(path))


def name_by_wnids(wnids: Sequence[str]) -> ClassNames | None:
    """ImageNet's names of classes by their WordNet ids; None unless it has all of them."""
    imagenet = load_imagenet_1k()
    known = dict(zip(imagenet.wnids or (), imagenet.names, strict=True))
    if not all(wnid in known for wnid in wnids):
        return None
    return ClassNames(tuple(known[wnid] for wnid in wnids), tuple(wnids))


def _from_lines(text: str, where: str) -> ClassNames:
    lines = [line.strip() for line in text.rstrip().splitlines()]
    for number, line in enumerate(lines, start=1):
        if not line:
            raise BadInput(
                f"{where}: line {number} is empty; expected one class name on every line."
            )
    if not lines:
        raise BadInput(f"{where} is empty; expected one class name on every line.")
    rows = [_WNID_LINE.fullmatch(line) for line in lines]
    if all(rows):
        found = [cast("re.Match[str]", row) for row in rows]
        return ClassNames(tuple(row[2] or row[1] for row in found), tuple(row[1] for row in found))
    return ClassNames(tuple(lines))


def _from_json(text: str, path: Path) -> ClassNames:
    shapes = f'{path}: expected {{"0": "daisy", ...}}, {{"daisy": 0, ...}} or ["daisy", ...]'
    try:
        data = parse_json(text.encode())
    except ValueError as error:
        raise BadInput(f"{shapes}; it is not JSON: {error}.") from None
    if isinstance(data, list):
        names: dict[int, object] = dict(enumerate(cast("list[object]", data)))
    elif isinstance(data, Mapping):
        pairs = cast("Mapping[str, object]", data)
        if all(isinstance(v, int) and not isinstance(v, bool) for v in pairs.values()):
            names = _by_index([(cast("int", v), k) for k, v in pairs.items()], path)
        elif None not in (numbers := [_as_number(key) for key in pairs]):
            names = _by_index(
                [(n, v) for n, v in zip(numbers, pairs.values(), strict=True) if n is not None],
                path,
            )
        else:
            raise BadInput(f"{shapes}.")
    else:
        raise BadInput(f"{shapes}.")
    if not names or not all(isinstance(name, str) and name.strip() for name in names.values()):
        raise BadInput(f"{shapes}, with a name for every class.")
    missing = sorted(set(range(len(names))) - set(names))
    if missing:
        raise BadInput(
            f"{path}: {len(names)} classes, but none has the number {missing[0]}.",
            "Numbers start at 0.",
        )
    return ClassNames(tuple(cast("str", names[i]) for i in range(len(names))))


def _by_index(pairs: list[tuple[int, object]], path: Path) -> dict[int, object]:
    names: dict[int, object] = {}
    for index, name in pairs:
        if index in names:
            raise BadInput(
                f"{path}: two classes have the number {index}: "
                f"'{names[index]!s:.80}' and '{name!s:.80}'."
            )
        names[index] = name
    return names


def _index(pairs: Iterable[tuple[str, int]]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for key, index in pairs:
        known = found.get(key, ())
        found[key] = known if index in known else (*known, index)
    return found


def _synonyms(name: str) -> list[str]:
    return [part for part in (p.strip() for p in name.split(",")) if part] or [name]


def _loose(text: str) -> str:
    """Without case, with one space between words. A leading hyphen stays as one: -1 is no 1."""
    return re.sub(r"[\s_-]+", " ", text.casefold()).rstrip() or text


def _as_number(text: str) -> int | None:
    """Python refuses to read thousands of digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
