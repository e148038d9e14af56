"""Which optimization profiles of an engine Triton can serve together.

An instance of Triton's TensorRT backend holds one execution context for each profile that its
configuration names, and runs a batch in the context whose OPT is nearest. It offers every batch
size from 1 to `max_batch_size`, so each of them has to be in one of the profiles
(https://github.com/triton-inference-server/tensorrt_backend, `GetMostOptimizedProfile`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ServedProfiles:
    """Profiles that together take every batch size from 1 to `max_batch`."""

    indices: tuple[int, ...]
    """Their numbers in the engine, ascending."""
    opt_batches: tuple[int, ...]
    """The batch sizes they are tuned for, ascending."""
    max_batch: int
    """The largest batch size of all."""


def choose_served_profiles(profiles: Sequence[tuple[int, int, int]]) -> ServedProfiles | None:
    """The profiles (MIN, OPT, MAX) that take all batch sizes from 1 to the largest without a gap.

    None where no profile takes a single image.
    """
    max_batch = 0
    indices: list[int] = []
    for smallest, index in sorted((profile[0], i) for i, profile in enumerate(profiles)):
        if smallest > max_batch + 1:
            break
        indices.append(index)
        max_batch = max(max_batch, profiles[index][2])
    if not indices:
        return None
    opt_batches = sorted({profiles[index][1] for index in indices})
    return ServedProfiles(tuple(sorted(indices)), tuple(opt_batches), max_batch)
