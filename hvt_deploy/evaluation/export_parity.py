"""Proof that an exported graph computes what the reference form computes, at every batch size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from hvt_deploy.core.environment import cpu_count
from hvt_deploy.core.errors import BadInput, CheckFailed
from hvt_deploy.core.manifest import Manifest, Parity
from hvt_deploy.core.run_config import RunConfig
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.core.ui import Progress
from hvt_deploy.data.calibration_set import choose_calibration
from hvt_deploy.data.images import load_batches
from hvt_deploy.evaluation.parity import compare_logits, draw_seeded_noise
from hvt_deploy.runtime.backend_registry import open_backend
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.failures import read_first_line
from hvt_deploy.runtime.inference_job import InferenceJob, infer_in_child
from hvt_deploy.runtime.variant import Variant

# Largest logit difference an FP32 graph may show, relative to the largest logit of the reference
# form.
FP32_PARITY = 2e-5
PROVED_BATCHES = (1, 2, 3, 5)
# Between the logits of an image in two batches, of the largest: kernels differ by batch size.
_BATCH_TOLERANCE = 1e-3
_NAMES = {"plain": "PyTorch", "given": "the file"}


_PYTORCH = Variant("pytorch", "cpu", "fp32")


def prove_parity(
    reference_path: Path,
    path: Path,
    manifest: Manifest,
    config: RunConfig,
    progress: Progress,
    reference: Variant = _PYTORCH,
) -> Parity:
    """Compare the graph with its reference at every batch size; returns the worst.

    Each runs in a process of its own, one after the other: the weights are never in memory twice.
    """
    ort_request = BackendRequest(
        variant=Variant("ort", "cpu", "fp32"),
        path=path,
        model=manifest.model,
        signature=manifest.signature,
        threads=cpu_count(),
        options=manifest.config.options,
    )
    reference_request = replace(ort_request, variant=reference, path=reference_path)
    with tempfile.TemporaryDirectory(prefix="hvt-deploy-") as temporary:
        batches: dict[Path, str] = {}
        for images_NCHW, what in _parity_batches(manifest, config):
            batches[Path(temporary) / f"{len(batches)}.npy"] = what
            np.save(list(batches)[-1], images_NCHW)
        jobs = (
            InferenceJob(request, tuple(batches)) for request in (reference_request, ort_request)
        )
        logits: list[list[LogitsNK]] = []
        for done, job in enumerate(jobs, start=1):
            logits.append(infer_in_child(job))
            progress(done, 2)
        parities = [
            _check_parity(expected, found, what, reference, untrained=manifest.weights.untrained)
            for expected, found, what in zip(logits[0], logits[1], batches.values(), strict=True)
        ]
    return max(parities, key=lambda parity: parity.relative_to_largest)


def prove_batches(path: Path, manifest: Manifest) -> None:
    """Raise BadInput unless the file at `path` takes every batch size that its input names, and
    computes each image by itself: exporters bake the batch of their example in.
    """
    signature, largest = manifest.signature, max(PROVED_BATCHES)
    sizes = (signature.batch,) if signature.batch else (largest, *PROVED_BATCHES[:-1])
    images_NCHW = draw_seeded_noise(signature, sizes[0], seed=0)
    request = BackendRequest(
        Variant("ort", "cpu", "fp32", "given"), path, manifest.model, signature, cpu_count()
    )
    together: LogitsNK | None = None
    for size in sizes:
        found = _try_batch(request, images_NCHW[:size])
        why = found if isinstance(found, str) else "gives other logits than a larger batch"
        if together is None and not isinstance(found, str):
            together = found
        if isinstance(found, str) or together is None or not _agree(found, together[:size]):
            fixed = f"Batches of {size}" if signature.batch else "The batch axis is dynamic by name"
            raise BadInput(
                f"{fixed}, but the batch size of the export was baked into the graph: a batch of "
                f"{size} {why}.",
                "Export the network again with a dynamic batch axis, or keep the size that was "
                "baked in: --batch N",
            )


def _try_batch(request: BackendRequest, images_NCHW: ImagesNCHW) -> LogitsNK | str:
    """The logits of a user's file, or how this batch fails. Raises BadInput where that is not for
    its size: the file cannot be opened, the logits are not finite.
    """
    try:
        backend = open_backend(request)
    except BadInput as error:
        return f"fails: {error.message.partition(': ')[2].rstrip('.')}"
    except Exception as error:
        why = f"ONNX Runtime cannot open the file: {read_first_line(error):.300}"
        raise BadInput(why, "Export it anew, at an opset that ONNX Runtime knows.") from error
    with closing(backend):
        try:
            logits = backend.infer(images_NCHW)
        except Exception as error:
            return f"fails: {read_first_line(error):.300}"
    if not np.isfinite(logits).all():
        raise BadInput(
            "The logits of the file are not finite for images of noise.",
            "Look for weights that are not finite; export the trained network in float32.",
        )
    return logits


def _agree(logits_NK: LogitsNK, others_NK: LogitsNK) -> bool:
    if logits_NK.shape != others_NK.shape:
        return False
    return bool(np.abs(logits_NK - others_NK).max() <= _BATCH_TOLERANCE * np.abs(others_NK).max())


def _parity_batches(manifest: Manifest, config: RunConfig) -> Iterator[tuple[ImagesNCHW, str]]:
    """Noise and, where there are any, calibration images, at every batch size to prove."""
    signature = manifest.signature
    batches = (signature.batch,) if signature.batch else PROVED_BATCHES
    for batch in batches:
        yield draw_seeded_noise(signature, batch, seed=batch), f"noise, batch {batch}"
    source = Path(config.calibration.folder)
    if source.is_dir():
        chosen = choose_calibration(source, max(batches), config.calibration.seed)
        for batch in batches:
            for real in islice(
                load_batches(chosen.samples(), manifest.preprocessing, batch, cpu_count()), 1
            ):
                if signature.batch in (None, len(real.images_NCHW)):
                    yield real.images_NCHW, f"real images, batch {len(real.images_NCHW)}"


def _check_parity(
    reference_NK: LogitsNK,
    candidate_NK: LogitsNK,
    what: str,
    reference: Variant,
    *,
    untrained: bool,
) -> Parity:
    parity = compare_logits(reference_NK, candidate_NK)
    if parity.relative_to_largest > FP32_PARITY or not parity.same_argmax:
        raise CheckFailed(
            f"The exported graph differs from {_NAMES[reference.form]} on {what}: "
            f"{parity.relative_to_largest:.1e} of the largest logit, {FP32_PARITY:.0e} allowed"
            f"{'' if parity.same_argmax else '; another class wins'}.",
            "Try another --simplifier; if it stays, report it with the model's name."
            + untrained
            * " Activations of random weights may grow until float32 is not exact: "
            "try --weights FILE.",
        )
    return parity
