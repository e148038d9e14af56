"""The process in which `export` runs one of the two that it compares: `python -m
hvt_deploy.runtime.worker`.

PyTorch's and ONNX Runtime's copies of the weights are never in memory at the same time.
"""

from __future__ import annotations

import sys
from contextlib import closing

from hvt_deploy.core.worker import answer
from hvt_deploy.runtime.job import InferenceJob, infer_files
from hvt_deploy.runtime.registry import open_backend


def infer(job: InferenceJob) -> None:
    """Open the backend, run it on every file of images, write the logits."""
    with closing(open_backend(job.request, lambda _: _reference(job))) as backend:
        infer_files(backend, job.images)


def _reference(job: InferenceJob):  # noqa: ANN202 - the process that runs ONNX Runtime has no use for torch
    from hvt_deploy.models.registry import get_spec
    from hvt_deploy.models.weights.load import load_model

    config = job.config
    spec = get_spec(config.model, config.preprocessing.image_size, config.options)
    return load_model(spec, job.request.path, job.request.signature.num_classes)[0]


if __name__ == "__main__":
    sys.exit(answer(InferenceJob, infer))
