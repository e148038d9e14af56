"""Exported models that tests share: each is made once in a test run, whichever worker is first."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.export import export
from hvt_deploy.core.run_config import with_flags
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import ModelFolder

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
