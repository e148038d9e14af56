"""Sampling of images by hash, the same on every machine, and hashes of their content."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import hash_bytes, hash_file, reading
from hvt_deploy.core.tensors import ImagesNCHW, LabelsN
from hvt_deploy.data.folders import Sample

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def draw_stratified_sample(
    samples: Sequence[Sample], limit: int | None, seed: int
) -> tuple[Sample, ...]:
    """`limit` samples drawn by `seed`, as evenly as possible from all classes; all for None.

    The choice depends on labels and file names only, not on the order or the location of the files,
    and the choice of a smaller limit is a subset of that of a larger one. The order is that of the
    given samples. Raises BadInput for a limit below 1.
    """
    if limit is None:
        return tuple(samples)
    if limit < 1:
        raise BadInput(f"A limit of {limit} images leaves none.", "Give 1 or more.")
    keys = [(str(sample.label), sample.path.name, str(sample.path)) for sample in samples]
    return tuple(samples[i] for i in draw_stratified(keys, limit, seed))


def draw_stratified(keys: Sequence[tuple[str, str, str]], limit: int, seed: int) -> list[int]:
    """The sorted indices of `limit` of the `keys` (class, name, tie-breaker), drawn by hash.

    Each round takes one of every class that has any left; a hash decides which one, and which
    classes a last, partial round takes. Unlike a random generator, hashes are the same on every
    machine, and one more file in the folder does not change the whole choice.
    """

    def rank(i: int) -> tuple[str, str]:
        group, name, tie = keys[i]
        return hash_bytes(os.fsencode(f"{seed}/{group}/{name}")), tie

    ranked = sorted((rank(i), i) for i in range(len(keys)))
    seen: dict[str, int] = {}
    rounds: list[tuple[int, int, int]] = []
    for place, (_, i) in enumerate(ranked):
        group = keys[i][0]
        seen[group] = seen.get(group, 0) + 1
        rounds.append((seen[group], place, i))
    return sorted(i for _, _, i in sorted(rounds)[:limit])


def order_stratified(labels_N: LabelsN, seed: int) -> NDArray[np.int64]:
    """A seeded order of all indices (N,) in which each part has the classes in the same shares."""
    shuffled = np.random.default_rng(seed).permutation(len(labels_N))
    place = np.empty(len(labels_N))
    for label in np.unique(labels_N):
        members = shuffled[labels_N[shuffled] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((labels_N, place))


def order_evenly(count: int) -> list[int]:
    """An order of so many places in which every first part is spread evenly over all of them, so
    over the classes of images that are sorted by class: the multiples of the golden ratio.
    """
    turns = [i * _GOLDEN_RATIO % 1 for i in range(count)]
    places = {turn: place for place, turn in enumerate(sorted(turns))}
    return [places[turn] for turn in turns]


def keep_images(
    batches: Iterable[ImagesNCHW], places: Sequence[int], kept: list[ImagesNCHW]
) -> Iterator[ImagesNCHW]:
    """Pass batches (N, 3, H, W) on, and add those of the images at `places`, sorted, to `kept`."""
    start = 0
    for images_NCHW in batches:
        here = [place - start for place in places if 0 <= place - start < len(images_NCHW)]
        kept.append(images_NCHW[here])
        start += len(images_NCHW)
        yield images_NCHW


def hash_contents(
    paths: Sequence[Path], threads: int, progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """The sha256 of each file, in order. Raises BadInput for a file that cannot be read."""

    def content_hash(path: Path) -> str:
        with reading(path):
            return hash_file(path)

    hashes: list[str] = []
    with ThreadPoolExecutor(threads, thread_name_prefix="hash") as pool:
        for digest in pool.map(content_hash, paths):
            hashes.append(digest)
            if progress is not None:
                progress(len(hashes), len(paths))
    return hashes
