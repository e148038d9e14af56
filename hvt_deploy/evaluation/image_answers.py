"""Every backend's answer to every image of a validation: what lets `diff` compare two of them image
by image.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.tensors import LabelsN

ANSWERS_FILE = "answers.npz"


@dataclass(frozen=True, eq=False)
class ImageAnswers:
    """The predicted class of every image, by backend.

    Classes are numbered as in the model, or in the subset if one was validated.
    """

    files: tuple[str, ...]
    """Paths of the images in their folder, N of them."""
    labels: LabelsN
    """Classes of the images (N,)."""
    answers: Mapping[str, NDArray[np.int64]]
    """Predicted classes (N,) by display name of the backend; -1: logits not finite."""

    def below(self, folder: Path) -> ImageAnswers:
        """The same with paths as they are seen from `folder`: the set may lie elsewhere another
        time.
        """
        files = (Path(os.path.relpath(file, folder)).as_posix() for file in self.files)
        return ImageAnswers(tuple(files), self.labels, self.answers)

    def sorted(self) -> ImageAnswers:
        """The same with the images in the order of their paths."""
        order = sorted(range(len(self.files)), key=self.files.__getitem__)
        answers = {name: answers_N[order] for name, answers_N in self.answers.items()}
        return ImageAnswers(tuple(self.files[i] for i in order), self.labels[order], answers)

    def write(self, path: Path) -> None:
        """Write as .npz: `files`, `labels`, `backends`, and `answers` (backends, N)."""
        answers = np.stack(list(self.answers.values())).astype(np.int32)
        files, backends = np.array(self.files), np.array(list(self.answers))
        np.savez_compressed(
            path, files=files, labels=self.labels, backends=backends, answers=answers
        )


def read_answers(path: Path) -> ImageAnswers:
    """Read what `ImageAnswers.write` wrote. Raises BadInput if it is not that."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            backends = [str(name) for name in arrays["backends"]]
            answers = dict(zip(backends, arrays["answers"].astype(np.int64), strict=True))
            return ImageAnswers(tuple(map(str, arrays["files"])), arrays["labels"], answers)
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise BadInput(
            f"{path} does not hold a validation's answers: {error}.", "Validate again."
        ) from None
