"""From image files to the tensors a model was trained on.

The pixels are those of timm's evaluation transform (`create_transform(..., is_training=False)`) on
Pillow images, bit for bit: Pillow decodes, resizes with antialiasing and crops, the rest is float32
arithmetic in torchvision's order. So nothing here may use Pillow's `draft` or `reducing_gap`, which
change pixels, and EXIF orientation is not applied, as timm and torchvision do not.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.tensors import ImagesNCHW, LabelsN
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.data.decoding import (
    MAX_PIXELS,
    PixelsInFlight,
    UnreadableImage,
    open_image,
    to_rgb,
)

if TYPE_CHECKING:
    from hvt_deploy.data.folders import Sample

# If more of a set is unreadable than this share, it is probably not the set the user meant.
UNREADABLE_SHARE = 0.01

_IN_FLIGHT = PixelsInFlight(MAX_PIXELS)

_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}


@dataclass(frozen=True)
class Unreadable:
    """A file that was left out."""

    path: Path
    """The file."""
    reason: str
    """The reason, as a phrase for reports."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Preprocessed images with their labels."""

    images_NCHW: ImagesNCHW  # noqa: N815
    """The images, float32 (N, 3, height, width)."""
    labels_N: LabelsN  # noqa: N815
    """The class number of each image, int64 (N,)."""
    samples: tuple[Sample, ...]
    """The sample of each image."""
    indices_N: NDArray[np.int64]  # noqa: N815
    """The place of each sample among those of the loader (N,)."""


def load_pixels(path: Path, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """An image file, decoded, resized and cropped: RGB (3, height, width).

    Of all threads that are in here, the images together have at most `MAX_PIXELS`. Raises
    UnreadableImage as `decode` and `preprocess` do.
    """
    with open_image(path) as image:
        resized = _resized_size(image.height, image.width, preprocessing)
        pixels = max(image.width * image.height, math.prod(resized))
        with _IN_FLIGHT.hold(pixels), closing(image):  # which frees them
            return _resize_and_crop(to_rgb(image), preprocessing)


def load_preprocessed(path: Path, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """`load_pixels`, normalised: float32 (3, height, width)."""
    return _normalize([load_pixels(path, preprocessing)], preprocessing)[0]


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Resize, crop and normalise an RGB image: float32 (3, height, width).

    Equal bit for bit to timm's evaluation transform: torchvision's Resize and CenterCrop (timm's
    ResizeKeepRatio where the target is not square), ToTensor, Normalize.
    Raises UnreadableImage for a shape that cannot be resized in reasonable memory.
    """
    return _normalize([_resize_and_crop(image, preprocessing)], preprocessing)[0]


def _resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The pixels (3, height, width) before they are normalised."""
    height, width = _resized_size(image.height, image.width, preprocessing)
    if (width, height) != image.size:
        image = image.resize((width, height), _RESAMPLING[preprocessing.interpolation])
    crop_height, crop_width = preprocessing.image_size
    top, left = _crop_start(height, crop_height), _crop_start(width, crop_width)
    # Pillow fills what lies outside the image with black, as torchvision's padding does.
    image = image.crop((left, top, left + crop_width, top + crop_height))
    pixels_HWC = np.ndarray((crop_height, crop_width, 3), np.uint8, image.tobytes())
    return np.ascontiguousarray(np.transpose(pixels_HWC, (2, 0, 1)))


def _normalize(images: Sequence[NDArray[np.uint8]], preprocessing: Preprocessing) -> ImagesNCHW:
    mean = np.array(preprocessing.mean, np.float32)[:, None, None]
    std = np.array(preprocessing.std, np.float32)[:, None, None]
    height, width = preprocessing.image_size
    images_NCHW = np.empty((len(images), 3, height, width), np.float32)
    for i, pixels_CHW in enumerate(images):  # one image at a time stays in the cache
        normalized_CHW = images_NCHW[i]
        np.divide(pixels_CHW, np.float32(255), out=normalized_CHW)
        normalized_CHW -= mean
        normalized_CHW /= std
    return images_NCHW


def repeat_to(images_NCHW: ImagesNCHW, size: int) -> ImagesNCHW:
    """`size` images: the given ones, truncated or repeated, for a fixed batch size."""
    return np.ascontiguousarray(np.resize(images_NCHW, (size, *images_NCHW.shape[1:])))


def load_batches(
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    batch_size: int,
    threads: int,
    *,
    fill: bool = False,
) -> BatchLoader:
    """Decode and preprocess `samples` with `threads` threads, in their order, `batch_size` at a
    time.

    Every batch but the last is full: unreadable files are left out and listed in `unreadable`.
    `fill`: the images of the last batch are repeated to `batch_size` as well, for a graph of a
    fixed batch size; its labels and samples are not.
    """
    return BatchLoader(samples, preprocessing, batch_size, threads, fill)


class BatchLoader:
    """Batches of images, in the order of the samples. Every iteration starts anew.

    Memory is bounded by one batch and the window of images decoded ahead of it, not by the number
    of samples. `unreadable` holds the files that the current or last iteration left out.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        preprocessing: Preprocessing,
        batch_size: int,
        threads: int,
        fill: bool,
    ) -> None:
        self.samples = samples
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.threads = threads
        self.fill = fill
        self.unreadable: list[Unreadable] = []

    def __iter__(self) -> Iterator[Batch]:
        """Raises BadInput as soon as more than 1 % of all samples are unreadable."""
        self.unreadable = []
        yield from self.load_part(0, len(self.samples))

    def load_part(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of `samples[start:stop]`: they depend on no other samples.

        What is unreadable is added to `unreadable`. Raises as `__iter__` does.
        """
        images: list[NDArray[np.uint8]] = []
        indices: list[int] = []
        samples = self.samples[start:stop]
        with closing(self._load_ahead(samples)) as loaded:
            for index, (sample, image) in enumerate(zip(samples, loaded, strict=True), start):
                if isinstance(image, Unreadable):
                    self.leave_out(sample.path, image.reason)
                    continue
                images.append(image)
                indices.append(index)
                if len(images) == self.batch_size:
                    yield self._batch(images, indices)
                    images, indices = [], []
        if images:
            yield self._batch(images, indices)

    def _batch(self, images: list[NDArray[np.uint8]], indices: list[int]) -> Batch:
        samples = tuple(self.samples[i] for i in indices)
        labels_N = np.array([sample.label for sample in samples], np.int64)
        images_NCHW = _normalize(images, self.preprocessing)
        if self.fill:
            images_NCHW = repeat_to(images_NCHW, self.batch_size)
        return Batch(images_NCHW, labels_N, samples, np.array(indices, np.int64))

    def _load_ahead(self, samples: Sequence[Sample]) -> Generator[NDArray[np.uint8] | Unreadable]:
        # Pillow loads most of its formats on first use and rejects files of other threads until
        # then, so they are loaded before there are threads.
        Image.init()
        window: deque[Future[NDArray[np.uint8] | Unreadable]] = deque()
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
        try:
            for sample in samples:
                window.append(pool.submit(self._load, sample.path))
                if len(window) == self.batch_size + self.threads:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(self, path: Path) -> NDArray[np.uint8] | Unreadable:
        try:
            return load_pixels(path, self.preprocessing)
        except UnreadableImage as error:
            return Unreadable(path, error.message)

    def leave_out(self, path: Path, reason: str) -> None:
        """Count a file as unreadable. Raises as `__iter__` does."""
        self.unreadable.append(Unreadable(path, reason))
        count, total = len(self.unreadable), len(self.samples)
        if count > max(1, UNREADABLE_SHARE * total):  # one damaged file never stops a small set
            named = "; ".join(f"{u.path} ({u.reason})" for u in self.unreadable[:5])
            more = f"; and {count - 5} more" if count > 5 else ""
            raise BadInput(
                f"At least {count} of {total} images cannot be read; "
                f"up to {UNREADABLE_SHARE:.0%} would have been left out and named: {named}{more}.",
                "Repair or remove these files, or copy the images again.",
            )


def _resized_size(height: int, width: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """(height, width) before the crop. Raises UnreadableImage where these are too many pixels."""
    resized = _apply_resize_rule(height, width, preprocessing)
    if math.prod(resized) > MAX_PIXELS:
        raise UnreadableImage(
            f"{width} x {height} pixels would be resized to {resized[1]} x {resized[0]}"
        )
    return resized


def _apply_resize_rule(height: int, width: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """(height, width) by the rule of torchvision (square) or timm (not square)."""
    target_height, target_width = (
        math.floor(edge / preprocessing.crop_pct) for edge in preprocessing.image_size
    )
    if preprocessing.crop_mode == "squash":
        return target_height, target_width
    if target_height != target_width:
        ratio = min(height / target_height, width / target_width)
        return round(height / ratio), round(width / ratio)
    if width <= height:
        return int(target_width * height / width), target_width
    return target_height, int(target_height * width / height)


def _crop_start(size: int, crop: int) -> int:
    """The start of a centred crop; negative for padding if `size` is smaller, as in torchvision."""
    return -((crop - size) // 2) if crop > size else round((size - crop) / 2)
