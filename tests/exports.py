"""Exported models that tests share: each is made once in a test run, whichever worker is first."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.export import export
from hvt_deploy.core.run_config import with_flags
from hvt_deploy.core.tensors import LogitsNK
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.evaluation import export_parity
from hvt_deploy.runtime import inference_job

# Copies an exported model into a workspace; called as (workspace, model, name of the copy, flags).
CopyModel = Callable[..., ModelFolder]


def copy_model(
    shared: Path,
    workspace: Path,
    model: str,
    flags: dict[str, object] | None = None,
    slug: str = "",
) -> ModelFolder:
    """`model` as `export` makes it with these flags of the configuration, in `workspace`."""
    slug, flags = slug or model, flags or {}
    key = hashlib.sha256(repr((model, slug, sorted(flags.items()))).encode()).hexdigest()[:8]
    made = ModelFolder(shared / f"{slug}-{key}" / slug)
    made.path.parent.mkdir(parents=True, exist_ok=True)
    with (made.path.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            export(made, with_flags(config_of(model), flags), None, SilentUi())
    shutil.copytree(made.path, workspace / slug)
    return ModelFolder(workspace / slug)


def prove_parity_here() -> None:
    """From now on `export` compares with PyTorch in this process, where PyTorch is imported
    already; commands/test_export_command.py has the child processes.
    """
    export_parity.infer_in_child = _infer_here


def _infer_here(job: inference_job.InferenceJob) -> list[LogitsNK]:
    inference_job._infer(replace(job, request=replace(job.request, threads=1)))
    return [np.load(inference_job._logits_path(images)) for images in job.images]
