"""Inference as a job for a process of its own: images and logits are handed over as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hvt_deploy.core.config import RunConfig
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.core.worker import run_in_child
from hvt_deploy.runtime.base import Backend, BackendRequest


@dataclass(frozen=True)
class InferenceJob:
    """Run a backend on the arrays `images` (each (N, 3, H, W)); the logits (N, K) go beside each,
    as `logits_of` says.

    `config` names the model, for the runtime that needs its code.
    """

    request: BackendRequest
    config: RunConfig
    images: tuple[Path, ...]


def logits_of(images: Path) -> Path:
    """Where the logits for a file of images are put."""
    return images.with_suffix(".logits.npy")


def infer_in_child(module: str, job: InferenceJob) -> list[LogitsNK]:
    """Let `python -m module` do the job; the logits for each file. Raises what the backend raised."""
    run_in_child(module, job)
    return [np.load(logits_of(images)) for images in job.images]


def infer_files(backend: Backend, images: Sequence[Path]) -> None:
    """The child's side."""
    for path in images:
        images_NCHW: ImagesNCHW = np.load(path)
        np.save(logits_of(path), backend.infer(images_NCHW))
