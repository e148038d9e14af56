"""Readers next to writers, in real processes; what a commit removes, and what it leaves alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small_models import add, make_manifest

from hvt_deploy.core.workspace import ModelFolder

# Replaces both artifacts of a model together, as fast as it can, until it is killed.
_WRITER = """
import sys, pathlib
from dataclasses import replace
from hvt_deploy.core.workspace import ModelFolder
folder = ModelFolder(pathlib.Path(sys.argv[1]))
count = 0
while True:
    with folder.lock():
        manifest = folder.read()
        for key, parents in (("calibration", ("fp32",)), ("int8", ("fp32", "calibration"))):
            count += 1
            with folder.staging() as staged:
                (staged / "file").write_text(f"{sys.argv[2]} {key} {count}" * 2000)
                manifest = folder.add(
                    manifest, key, staged, "file", "again", parents=parents, commit=False
                )
        folder.commit(manifest)
    print("committed", flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    folder = ModelFolder(tmp_path / "m")
    add(folder, make_manifest(), "fp32", "weights")
    return folder


def start_writer(folder: ModelFolder, name: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(folder.path), name], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "committed\n"
    return process


def test_a_reader_keeps_every_file_of_its_manifest_while_another_process_writes(folder):
    process = start_writer(folder, "a")
    try:
        seen = set()
        for _ in range(100):
            with folder.reading() as manifest:
                for key in ("fp32", "calibration", "int8"):
                    assert folder.open_artifact(manifest, key).read_text()
                seen.add(manifest.artifacts["int8"].folder)
        assert len(seen) > 5, "the other process wrote meanwhile"
    finally:
        process.kill()
        process.communicate()


def test_what_a_reader_kept_is_removed_by_the_next_that_writes(folder):
    old = folder.read().artifacts["fp32"].folder
    with folder.reading() as manifest:
        add(folder, manifest, "fp32", "other")
        assert (folder.path / old).is_dir()
    assert (folder.path / old).is_dir()
    with folder.lock():
        assert not (folder.path / old).exists()


def test_writers_that_are_killed_at_any_moment_leave_a_model_that_works(folder):
    draw = random.Random(0)
    for kill in range(8):
        process = start_writer(folder, str(kill))
        time.sleep(draw.uniform(0, 0.03))
        process.send_signal(draw.choice([signal.SIGKILL, signal.SIGTERM]))
        process.communicate()
        with folder.reading() as manifest:
            for key in manifest.artifacts:
                folder.open_artifact(manifest, key)
    with folder.lock():
        named = {artifact.folder for artifact in folder.read().artifacts.values()}
        there = {p.name for p in folder.path.iterdir() if p.is_dir()}
        assert there == named, "what they left was removed"


def test_what_a_user_keeps_in_the_folder_stays(folder):
    digits = "0123456789ab"
    ours = (f"int8-{digits}", f"engine-int8-fp32-rtx-sm86-{digits}", ".staging-abcd_123")
    users = (
        *("notes", f"notes-{digits}", f"fp32-{digits}-old", f"fp32-{digits.upper()}"),
        *(
            f"fp32-{digits}0",
            f"my-fp32-{digits}",
            f"engine-{digits}",
            f"engine-int8-of-me-{digits}",
        ),
        *(".staging", ".staging-of-mine", ".hidden"),
    )
    for name in (*ours, *users):
        (folder.path / name).mkdir()
        (folder.path / name / "file").write_text("")
    (folder.path / f"fp16-{digits}").write_text("a file")
    (folder.path / f"int8-cpu-{digits}").symlink_to(folder.path / "notes")
    (folder.path / ".manifest.json.17.new").write_text("half")
    with folder.lock():
        add(folder, folder.read(), "fp32", "other")
    there = {p.name for p in folder.path.iterdir()}
    assert there >= {*users, f"fp16-{digits}", f"int8-cpu-{digits}"}
    assert not there & {*ours, ".manifest.json.17.new"}
    assert (folder.path / "notes" / "file").is_file()


def test_a_file_of_a_user_in_an_artifact_that_is_made_again_stays(folder):
    path = folder.file(folder.read().artifacts["fp32"])
    path.write_text("damaged")
    path.with_name("notes.txt").write_text("mine")
    add(folder, folder.read(), "fp32", "weights")
    assert path.read_text() == "weights"
    assert path.with_name("notes.txt").is_file()


def test_under_a_manifest_that_cannot_be_read_nothing_is_removed(folder):
    artifact = folder.file(folder.read().artifacts["fp32"])
    (folder.path / "manifest.json").write_text("{")
    with folder.lock():
        assert artifact.is_file()


def test_a_folder_that_cannot_be_written_to_is_read(folder, monkeypatch):
    (folder.path / ".readers").unlink(missing_ok=True)
    real = os.open

    def refuse(path, flags, *mode, **more):
        if str(path).endswith(".readers"):
            raise PermissionError(13, "Read-only file system")
        return real(path, flags, *mode, **more)

    monkeypatch.setattr(os, "open", refuse)
    with folder.reading() as manifest:
        assert folder.open_artifact(manifest, "fp32")
    old = manifest.artifacts["fp32"].folder
    add(folder, manifest, "fp32", "other")
    assert (folder.path / old).is_dir(), "somebody may read without being seen"


def test_files_and_folders_reach_the_disk_before_the_manifest_names_them(folder, monkeypatch):
    synced = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real_fsync(descriptor)

    def move(path, target):
        synced.append(f"-> {Path(target).name}")
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", move)
    add(folder, folder.read(), "int8", "graph")
    named = synced.index("-> manifest.json")
    before, after = synced[:named], synced[named + 1 :]
    assert before[0] == "file"
    assert before[1].startswith(".staging-")
    assert before[-2] == "m"
    assert before[-1].startswith(".manifest.json.")
    assert after[0] == "m"


def test_what_is_not_committed_is_not_seen(folder):
    before = folder.read()
    with folder.lock():
        manifest = add(folder, before, "calibration", "ranges", commit=False)
        manifest = add(folder, manifest, "int8", "graph", commit=False)
        assert folder.read() == before
        folder.commit(replace(manifest, exported="later"))
    assert set(folder.read().artifacts) == {"fp32", "calibration", "int8"}
