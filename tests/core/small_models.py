"""A model's manifest with two classes, and artifacts of one short file, for tests of folders."""

from __future__ import annotations

from hvt_deploy.commands.config import config_of
from hvt_deploy.core.manifest import Manifest, WeightsRecord
from hvt_deploy.core.tensors import Signature
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.core.workspace import ModelFolder, now


def make_manifest(slug: str = "m") -> Manifest:
    return Manifest(
        slug=slug,
        model="fdvit_ti",
        exported=now(),
        signature=Signature((32, 32), 2),
        preprocessing=Preprocessing((32, 32)),
        class_names=("a", "b"),
        wnids=None,
        weights=WeightsRecord("random", "", untrained=True),
        config=config_of("fdvit_ti"),
        artifacts={},
    )


def add(
    folder: ModelFolder,
    manifest: Manifest,
    key: str,
    text: str,
    parents: tuple[str, ...] = (),
    commit: bool = True,
) -> Manifest:
    with folder.staging() as staged:
        (staged / "file").write_text(text)
        return folder.add(
            manifest, key, staged, "file", f"remake {key}", parents=parents, commit=commit
        )
