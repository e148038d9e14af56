"""A plain runtime: `Classifier` turns images into labels with an exported model, in a few lines of
any program.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hvt_deploy.core.device_choice import parse_device
from hvt_deploy.core.environment import inference_threads
from hvt_deploy.core.errors import (
    BadInput,
    HvtDeployWarning,
    MissingEnvironment,
    unknown_name,
)
from hvt_deploy.core.paths import as_path, as_text
from hvt_deploy.core.tensors import LogitsNK
from hvt_deploy.core.types import DEFAULT_WORKSPACE, Runtime, StrPath
from hvt_deploy.core.workspace import find_model
from hvt_deploy.data.decoding import UnreadableImage, decode
from hvt_deploy.data.images import load_preprocessed, preprocess
from hvt_deploy.runtime.base import AnyBackend, PixelsBackend
from hvt_deploy.runtime.selection import Selection, select_backends

# A file, a Pillow image, or pixels (H, W, 3) as uint8 RGB.
ImageLike: TypeAlias = str | Path | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Label:
    """A class and how probable it is (softmax of the logits, 0 to 1)."""

    index: int
    """Number of the class, as the model numbers it."""
    name: str
    """Name of the class."""
    probability: float
    """Softmax probability, 0 to 1."""


@dataclass(frozen=True)
class Prediction:
    """The classes of one image, most probable first."""

    labels: tuple[Label, ...]
    """The requested number of classes."""

    @property
    def best(self) -> Label:
        """The most probable class."""
        return self.labels[0]


class Classifier:
    """An exported model, ready to classify.

    `model` is a `hvt_deploy.Model`, an exported model's folder (`artifacts/fdvit_b`) or its name in
    `workspace`; None is the newest. `backend` is a row's name as `validate` shows it ("ort int8
    cpu"), a runtime ("ort", "ort-trt", "trt", "pytorch") or "auto": an engine where one runs, else
    ONNX Runtime in FP32, which also runs in place of a CPU variant that something speaks against
    (an HvtDeployWarning says so, and `note`). `device` is "auto" (the GPU where the runtime can use
    one), "cpu", "cuda" or "cuda:N". Raises BadInput for a name that does not exist,
    MissingEnvironment where the backend cannot run here.
    """

    def __init__(
        self,
        model: StrPath | None = None,
        backend: str = "auto",
        *,
        workspace: StrPath = DEFAULT_WORKSPACE,
        batch_size: int = 8,
        threads: int | None = None,
        device: str = "auto",
    ) -> None:
        self._folder = find_model(as_path("workspace", workspace), as_text("model", model))
        self._threads = threads or inference_threads()
        with self._folder.reading() as manifest:
            self._batch_size = manifest.signature.batch or batch_size
            selections = select_backends(
                self._folder,
                manifest,
                device=parse_device(device),
                threads=self._threads,
                timed_batches=(self._batch_size,),
                with_pytorch=backend != "auto",
            )
            chosen, self.note = _choose(selections, backend)
            if self.note:
                warnings.warn(self.note, HvtDeployWarning, stacklevel=2)
            self._backend = _open_backend(chosen, backend)
        self._preprocessing, self._names = manifest.preprocessing, manifest.class_names
        self.untrained = manifest.weights.untrained
        self._closed = False

    @property
    def backend(self) -> str:
        """Display name of the backend that runs the model, as in `validate`."""
        return self._backend.name

    @property
    def model(self) -> str:
        """The exported model's name."""
        return self._folder.slug

    def __call__(self, images: Iterable[ImageLike], top: int = 5) -> list[Prediction]:
        """The `top` most probable classes of every image, in the order of the images.

        Raises UnreadableImage for a file that is no image, BadInput for an array that is no RGB
        image and for a classifier that was closed.
        """
        return list(self.stream(images, top))

    def stream(self, images: Iterable[ImageLike], top: int = 5) -> Iterator[Prediction]:
        """`__call__` for any number of images: memory is bounded by one batch."""
        for prediction in self.attempt(images, top):
            if isinstance(prediction, UnreadableImage):
                raise prediction
            yield prediction

    def attempt(
        self, images: Iterable[ImageLike], top: int = 5
    ) -> Iterator[Prediction | UnreadableImage]:
        """`stream` that goes on after a file that is no image, with the error in its place."""
        if self._closed:
            raise BadInput(f"This classifier of {self.model} was closed.", "Open another one.")
        waiting = iter(images)
        # Whole photographs, as pixels, are held one at a time.
        size = 1 if isinstance(self._backend, PixelsBackend) else self._batch_size
        with ThreadPoolExecutor(self._threads) as pool:
            while batch := list(islice(waiting, size)):
                loaded = list(pool.map(self._load, batch))
                readable = [image for image in loaded if not isinstance(image, UnreadableImage)]
                answers = iter(self._infer(readable) if readable else ())
                for image in loaded:
                    if isinstance(image, UnreadableImage):
                        yield image
                    else:
                        yield Prediction(_most_probable(next(answers), self._names, top))

    def close(self) -> None:
        """Free the model. Closing it again does nothing."""
        if not self._closed:
            self._closed = True
            self._backend.close()

    def __enter__(self) -> Classifier:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _load(self, image: ImageLike) -> NDArray[np.generic] | UnreadableImage:
        """What the backend takes of one image, or why there is none."""
        try:
            if isinstance(self._backend, PixelsBackend):
                return np.asarray(_as_rgb(image))
            if isinstance(image, str | Path):
                return load_preprocessed(Path(image), self._preprocessing)
            return preprocess(_as_rgb(image), self._preprocessing)
        except UnreadableImage as error:
            return error

    def _infer(self, images: Sequence[NDArray[np.generic]]) -> LogitsNK:
        if isinstance(self._backend, PixelsBackend):
            return self._backend.infer_pixels(
                [image.astype(np.uint8, copy=False) for image in images]
            )
        return self._backend.infer(np.asarray(images, np.float32))


def _open_backend(chosen: Sequence[Selection], name: str) -> AnyBackend:
    for selection in chosen:
        if selection.open is not None:
            return selection.open()
    why = chosen[0].why_not if chosen else "No engine was built yet: hvt-deploy build-trt"
    raise MissingEnvironment(f"{name} cannot run here: {why}", "`hvt-deploy doctor` says what can.")


def _choose(selections: Sequence[Selection], name: str) -> tuple[list[Selection], str]:
    """The backends of that name or runtime, and why they are others than asked for, or "".

    For `auto` they are an engine, else ONNX Runtime in FP32, which is also in place of a graph that
    something speaks against. Of several engines those first that take a single image, as the last
    one of a folder may be.
    """
    selections = sorted(selections, key=lambda selection: not _takes_one(selection))
    plain = [s for s in selections if s.variant.name == "ort fp32"]
    if name == "auto":
        engines = [s for s in selections if s.variant.runtime == "trt"]
        return engines + plain, ""
    names = {s.variant.name for s in selections}
    runtimes = set(get_args(Runtime))
    if name not in names | runtimes:
        raise unknown_name("backend", name, {"auto"} | names | runtimes)
    chosen = [s for s in selections if name in (s.variant.name, s.variant.runtime)]
    served = [s for s in chosen if not s.fault]
    if served or not chosen:
        return served, ""
    return plain, f"ort fp32 instead of {name}: {chosen[0].fault}"


def _takes_one(selection: Selection) -> bool:
    profiles = selection.passport.profiles if selection.passport else ()
    return not profiles or min(profile.min for profile in profiles) == 1


def _as_rgb(image: ImageLike) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if not isinstance(image, np.ndarray):
        return decode(Path(image))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise BadInput(
            f"An array {image.shape} of {image.dtype} is no image.",
            "Give pixels (height, width, 3), RGB, uint8.",
        )
    return Image.fromarray(image)


def _most_probable(
    logits_K: NDArray[np.float32], names: Sequence[str], top: int
) -> tuple[Label, ...]:
    shifted_K = np.exp(logits_K.astype(np.float64) - logits_K.max())
    probabilities_K = shifted_K / shifted_K.sum()
    order = [int(i) for i in np.argsort(-probabilities_K, kind="stable")[:top]]
    return tuple(Label(i, names[i], float(probabilities_K[i])) for i in order)
