"""Every backend's answer to every image: all statistics of a report are computed from these.

The logits of 50 000 images and 1000 classes take 200 MB for each backend. What is kept takes 64
bytes an image (and up to 20 logits, for curves), in full precision, so nothing that is reported is
rounded. One file holds the answers to a part of the images or to all: `join_answers` makes one of
many, wherever they were measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.core.tensors import LabelsN, LogitsNK
from hvt_deploy.evaluation.class_scores import MOST_CURVES, NO_CLASS

ANSWERS_FILE = "answers.npz"
# "probability" is the softmax's of the predicted class; "energy", "noise" and "product" are sums
# over the classes: of the squared logits, of their squared differences from the reference's, and of
# their products with the reference's; "max_abs" is the largest difference of a logit. Noise and
# max_abs are infinite where a logit of either is not finite. Pixels are those of the graph's own
# preprocessing against the exact ones.
_FIELDS: list[tuple[str, str]] = [
    ("predicted", "<i4"),
    ("rank", "<i4"),
    ("probability", "<f8"),
    ("energy", "<f8"),
    ("noise", "<f8"),
    ("product", "<f8"),
    ("max_abs", "<f8"),
    ("pixel_max", "<f8"),
    ("pixel_mean", "<f8"),
]


@dataclass(frozen=True, eq=False)
class ImageAnswers:
    """The answers of some backends to N images, in the order of the images' indices.

    Classes are numbered as in the model, or in the subset if one was validated.
    """

    num_classes: int
    """How many classes were compared."""
    indices: NDArray[np.int64]
    """Place of each image in the validated sample (N,)."""
    files: tuple[str, ...]
    """Paths of the images in their folder, N of them."""
    labels: LabelsN
    """Classes of the images (N,)."""
    answers: Mapping[str, NDArray[np.void]]
    """Records (N,) by display name of the backend, the reference first."""
    unreadable: Mapping[int, str]
    """Images that were left out: the reason by index."""
    reference_logits: LogitsNK | None = None
    """The reference's logits (N, K), of all classes, where they are to be kept."""

    @property
    def reference(self) -> str:
        """The backend that the others are compared with."""
        return next(iter(self.answers))

    def predicted(self, name: str) -> NDArray[np.int64]:
        """The class that a backend predicted for each image (N,); -1: logits not finite."""
        return self.answers[name]["predicted"].astype(np.int64)

    def sorted_by_file(self) -> ImageAnswers:
        """The same with the images in the order of their paths."""
        order = np.array(sorted(range(len(self.files)), key=self.files.__getitem__), np.int64)
        return self.take(order)

    def write(self, path: Path | IO[bytes]) -> None:
        """Write as .npz, which `read_answers` reads."""
        kept: dict[str, Any] = {}
        if self.reference_logits is not None:
            kept["reference_logits"] = self.reference_logits
        np.savez_compressed(
            path,
            num_classes=np.array(self.num_classes),
            indices=self.indices,
            files=np.array(self.files, np.str_),
            labels=self.labels,
            backends=np.array(list(self.answers), np.str_),
            answers=np.stack(list(self.answers.values())),
            unreadable=np.array(list(self.unreadable), np.int64),
            reasons=np.array(list(self.unreadable.values()), np.str_),
            **kept,
        )

    def take(self, order: NDArray[np.int64]) -> ImageAnswers:
        """The images at these places, in this order."""
        kept = self.reference_logits
        return ImageAnswers(
            self.num_classes,
            self.indices[order],
            tuple(self.files[int(i)] for i in order),
            self.labels[order],
            {name: answers_N[order] for name, answers_N in self.answers.items()},
            self.unreadable,
            None if kept is None else kept[order],
        )


def read_answers(path: Path) -> ImageAnswers:
    """Read what `ImageAnswers.write` wrote. Raises BadInput if it is not that."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            backends = [str(name) for name in arrays["backends"]]
            reasons = map(str, arrays["reasons"])
            found = ImageAnswers(
                int(arrays["num_classes"]),
                arrays["indices"],
                tuple(map(str, arrays["files"])),
                arrays["labels"],
                dict(zip(backends, arrays["answers"], strict=True)),
                dict(zip(arrays["unreadable"].tolist(), reasons, strict=True)),
                arrays["reference_logits"] if "reference_logits" in arrays.files else None,
            )
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise BadInput(
            f"{path} does not hold a validation's answers: {error}.", "Validate again."
        ) from None
    images, shape = len(found.labels), _record(found.num_classes)
    lengths = {len(found.indices), len(found.files), *map(len, found.answers.values())}
    if lengths != {images} or any(one.dtype != shape for one in found.answers.values()):
        raise BadInput(f"{path} holds answers of another form.", "Validate again.")
    return found


def answer_images(
    logits: Mapping[str, LogitsNK],
    labels_N: LabelsN,
    indices_N: NDArray[np.int64],
    files: Sequence[str],
    pixels: Mapping[str, NDArray[np.float64]] | None = None,
) -> ImageAnswers:
    """What is kept of the logits (N, K) of every backend, the reference first.

    `pixels` has the largest and the mean difference of each image's pixels (N, 2), for backends
    that preprocess themselves. Raises BadInput for a label that is no class and ToolFailure for
    logits of another shape than the reference's.
    """
    reference_NK = next(iter(logits.values()))
    num_classes = reference_NK.shape[1]
    _check(logits, labels_N, (len(labels_N), num_classes))
    answers = {
        name: _answer(logits_NK, reference_NK, labels_N) for name, logits_NK in logits.items()
    }
    for name, differences_N2 in (pixels or {}).items():
        answers[name]["pixel_max"] = differences_N2[:, 0]
        answers[name]["pixel_mean"] = differences_N2[:, 1]
    return ImageAnswers(num_classes, indices_N, tuple(files), labels_N, answers, {})


def join_answers(parts: Sequence[ImageAnswers]) -> ImageAnswers:
    """The answers of all parts, at least one, sorted by index, of the backends that all parts have.

    Raises BadInput for two answers to one image.
    """
    first = parts[0]
    kept = [part.reference_logits for part in parts if len(part.labels)]
    logits = [one for one in kept if one is not None]
    joined = {
        name: np.concatenate([part.answers[name] for part in parts])
        for name in first.answers
        if all(name in part.answers for part in parts)
    }
    indices_N = np.concatenate([part.indices for part in parts])
    if len(np.unique(indices_N)) != len(indices_N):
        raise BadInput("Two parts of a validation have answers to the same image.")
    whole = ImageAnswers(
        first.num_classes,
        indices_N,
        tuple(file for part in parts for file in part.files),
        np.concatenate([part.labels for part in parts]),
        joined,
        dict(sorted(item for part in parts for item in part.unreadable.items())),
        np.concatenate(logits) if logits and len(logits) == len(kept) else None,
    )
    return whole.take(np.argsort(indices_N))


def record_bytes(num_classes: int) -> int:
    """What is kept of an image for each backend, before compression."""
    return _record(num_classes).itemsize


def _record(num_classes: int) -> np.dtype[np.void]:
    fields: list[tuple[str, DTypeLike, tuple[int, ...]]] = [(*field, ()) for field in _FIELDS]
    curves = [("logits", "<f4", (num_classes,))] if 1 < num_classes <= MOST_CURVES else []
    return np.dtype([*fields, *curves])


def _answer(logits_NK: LogitsNK, reference_NK: LogitsNK, labels_N: LabelsN) -> NDArray[np.void]:
    x_NK, finite_N1 = _finite(logits_NK)
    y_NK, finite_reference_N1 = _finite(reference_NK)
    is_finite_N, both_N1 = finite_N1[:, 0], finite_N1 & finite_reference_N1
    difference_NK = np.where(both_N1, x_NK - y_NK, 0)
    weights_NK = np.exp(x_NK - x_NK.max(axis=1, keepdims=True))
    found = np.zeros(len(labels_N), _record(x_NK.shape[1]))
    found["predicted"] = np.where(is_finite_N, x_NK.argmax(axis=1), NO_CLASS)
    found["rank"] = np.where(is_finite_N, _rank(x_NK, labels_N), x_NK.shape[1])
    found["probability"] = np.where(is_finite_N, 1 / weights_NK.sum(axis=1), 0)
    found["energy"] = np.where(is_finite_N, np.square(x_NK).sum(axis=1), np.inf)
    found["noise"] = np.where(both_N1[:, 0], np.square(difference_NK).sum(axis=1), np.inf)
    found["product"] = (x_NK * y_NK).sum(axis=1)
    found["max_abs"] = np.where(both_N1[:, 0], np.abs(difference_NK).max(axis=1), np.inf)
    if "logits" in (found.dtype.names or ()):
        found["logits"] = logits_NK
    return found


def _finite(logits_NK: LogitsNK) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Logits with zeros in the rows that are not all finite, and which rows are (N, 1)."""
    finite_N1 = np.asarray(np.isfinite(logits_NK).all(axis=1, keepdims=True))
    return np.where(finite_N1, logits_NK.astype(np.float64), 0), finite_N1


def _rank(logits_NK: NDArray[np.float64], labels_N: LabelsN) -> NDArray[np.int64]:
    """How many classes come before the label; among equal logits the lower class first, as argmax
    has it.
    """
    own_N1 = np.take_along_axis(logits_NK, labels_N[:, None], axis=1)
    is_lower_class_NK = np.arange(logits_NK.shape[1], dtype=np.int64) < labels_N[:, None]
    comes_before_NK = (logits_NK > own_N1) | ((logits_NK == own_N1) & is_lower_class_NK)
    return np.count_nonzero(comes_before_NK, axis=1)


def _check(logits: Mapping[str, LogitsNK], labels_N: LabelsN, expected: tuple[int, int]) -> None:
    for name, logits_NK in logits.items():
        if logits_NK.shape != expected:
            raise ToolFailure(
                f"{name} gave logits of shape {logits_NK.shape}, expected {expected}."
            )
    if len(labels_N) and not 0 <= labels_N.min() <= labels_N.max() < expected[1]:
        wrong = labels_N.max() if labels_N.min() >= 0 else labels_N.min()
        raise BadInput(f"Label {wrong} is not among the {expected[1]} classes of the model.")
