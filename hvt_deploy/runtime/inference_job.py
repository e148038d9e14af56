"""Inference in a process of its own: `python -m hvt_deploy.runtime.inference_job`.

Images and logits are handed over as files. `export` compares PyTorch with ONNX Runtime so: their
copies of the weights are never in memory at the same time.
"""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.core.worker import answer, run_in_child
from hvt_deploy.runtime.backend_registry import open_backend
from hvt_deploy.runtime.base import BackendRequest

INFERENCE_MODULE = "hvt_deploy.runtime.inference_job"


@dataclass(frozen=True)
class InferenceJob:
    """Run a backend on arrays of images."""

    request: BackendRequest
    """The artifact to open, and how."""
    images: tuple[Path, ...]
    """Files of images (N, 3, H, W); the logits (N, K) are written next to them."""


def infer_in_child(job: InferenceJob) -> list[LogitsNK]:
    """Do a job in a child process; the logits for each file. Raises what the backend raised."""
    run_in_child(INFERENCE_MODULE, job)
    return [np.load(_logits_path(images)) for images in job.images]


def _infer(job: InferenceJob) -> None:
    with closing(open_backend(job.request)) as backend:
        for path in job.images:
            images_NCHW: ImagesNCHW = np.load(path)
            np.save(_logits_path(path), backend.infer(images_NCHW))


def _logits_path(images: Path) -> Path:
    return images.with_suffix(".logits.npy")


if __name__ == "__main__":
    sys.exit(answer(InferenceJob, _infer))
