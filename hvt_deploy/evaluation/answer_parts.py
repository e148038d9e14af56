"""The answers of a validation on disk while it runs, one file for each part of the images.

A part is a fixed range of the validated sample, and its batches depend on no other part: it has
the same answers in whichever run, or on whichever machine of the same kind, it is evaluated. Its
file name holds the range and a hash of the images and labels, the name of its folder a hash of
everything else that decides the answers. So a run that was ended goes on with the parts that are
there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.core.environment import cpu_count
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import hash_bytes, hash_file, replace_file, writing_to
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.data.folders import Sample
from hvt_deploy.evaluation.image_answers import ImageAnswers, read_answers, record_bytes

# What an interruption can cost, and 200 files for ImageNet's validation set.
_PART_IMAGES = 256
# Interrupted runs of other settings or other images that may still go on.
_KEPT_RUNS = 4


@dataclass(frozen=True)
class Part:
    """A range of the validated sample."""

    start: int
    """Index of the first sample."""
    stop: int
    """Index behind the last sample."""


class AnswerParts:
    """The parts of one validation: `images` is their folder, `settings` what decides the answers
    but for the images.
    """

    def __init__(
        self,
        folder: Path,
        images: Path,
        samples: Sequence[Sample],
        batch_size: int,
        settings: Mapping[str, object],
    ) -> None:
        size = max(1, _PART_IMAGES // batch_size) * batch_size
        starts = range(0, len(samples), size)
        self.parts = tuple(Part(start, min(start + size, len(samples))) for start in starts)
        self.images = images
        key = json.dumps(to_plain(settings), sort_keys=True)
        self._folder = folder / hash_bytes(key.encode())[:16]
        self._samples = samples
        self._hashes: dict[Part, list[str]] = {}

    def hash_images(self) -> str:
        """The hash of all images with their labels, whatever their names and order."""
        hashes = [one for part in self.parts for one in self._hash(part)]
        labelled = zip(hashes, (sample.label for sample in self._samples), strict=True)
        return hash_bytes(json.dumps(sorted(labelled)).encode())

    def bytes(self, backends: int, num_classes: int, *, keep_reference: bool) -> int:
        """Disk space that all parts take, and again when they are made one file."""
        logits = 4 * num_classes if keep_reference else 0
        return 2 * len(self._samples) * (backends * record_bytes(num_classes) + logits)

    def find(self, names: Sequence[str]) -> dict[Part, ImageAnswers]:
        """The parts that were evaluated before by these backends, the reference first."""
        found = {part: self._read(part, names) for part in self.parts}
        return {part: answers for part, answers in found.items() if answers is not None}

    def name_of(self, sample: Sample) -> str:
        """The path of an image as seen from their folder: it may lie elsewhere another time."""
        return Path(os.path.relpath(sample.path, self.images)).as_posix()

    def keep(self, part: Part, answers: ImageAnswers) -> None:
        """Write the answers to a part, whatever happens next. Raises MissingEnvironment."""
        path = self._path(part)
        with writing_to(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(path) as temporary, temporary.open("wb") as stream:
                answers.write(stream)

    def clear(self) -> None:
        """Remove the parts of this validation, which is over, and all but the newest others."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):  # there are others, or there were none
            self._folder.parent.rmdir()
        others = [path for path in self._folder.parent.glob("*") if path.is_dir()]
        others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for old in others[_KEPT_RUNS:]:
            shutil.rmtree(old, ignore_errors=True)

    def _read(self, part: Part, names: Sequence[str]) -> ImageAnswers | None:
        if not any(self._folder.glob(f"{_range(part)}-*.npz")):  # nothing to hash images for
            return None
        try:
            answers = read_answers(self._path(part))
        except BadInput:  # missing, or damaged: evaluated again
            return None
        usable = answers.reference == names[0] and set(names) <= set(answers.answers)
        return answers if usable else None

    def _path(self, part: Part) -> Path:
        labels = [sample.label for sample in self._samples[part.start : part.stop]]
        key = hash_bytes(json.dumps([self._hash(part), labels]).encode())
        return self._folder / f"{_range(part)}-{key[:16]}.npz"

    def _hash(self, part: Part) -> list[str]:
        """The hashes of the images of a part, which are read once."""
        if part not in self._hashes:
            paths = [sample.path for sample in self._samples[part.start : part.stop]]
            with ThreadPoolExecutor(cpu_count(), thread_name_prefix="hash") as pool:
                self._hashes[part] = list(pool.map(_hash_content, paths))
        return self._hashes[part]


def _range(part: Part) -> str:
    return f"{part.start:07}-{part.stop:07}"


def _hash_content(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError:  # left out when it is decoded
        return ""
