"""Hashes, and writes that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import shutil
import signal
import stat
from pathlib import Path

import numpy as np
import pytest

from hvt_deploy.core.errors import BadInput, MissingEnvironment, as_failure
from hvt_deploy.core.files import (
    cache_folder,
    hash_bytes,
    hash_file,
    new_folder,
    replace_file,
    writing_to,
)


def test_a_hash_is_of_all_blocks_of_all_files(tmp_path):
    first, second = bytes(range(256)) * 5000, b"end"  # the first is longer than one block
    (tmp_path / "a").write_bytes(first)
    (tmp_path / "b").write_bytes(second)
    both = hash_file(tmp_path / "a", tmp_path / "b")
    assert both == hash_bytes(first + second) == hashlib.sha256(first + second).hexdigest()
    assert hash_file(tmp_path / "a") == hashlib.sha256(first).hexdigest()


def test_a_file_is_replaced_whole_or_stays(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), replace_file(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    with replace_file(path) as temporary:
        temporary.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all_and_others_may_read_it(tmp_path):
    path = tmp_path / "parent" / "folder"
    with pytest.raises(KeyboardInterrupt), new_folder(path) as temporary:
        (temporary / "half").write_text("")
        raise KeyboardInterrupt
    assert list(path.parent.iterdir()) == []
    with new_folder(path) as temporary:
        (temporary / "file").write_text("whole")
        assert not path.exists()
    assert (path / "file").read_text() == "whole"
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert list(path.parent.iterdir()) == [path]


def test_a_path_that_cannot_be_written_to_is_bad_input_and_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with (
        pytest.raises(BadInput, match=f"refused {file}.*: Not a directory"),
        writing_to(file),
        replace_file(file / "below") as temporary,
    ):
        temporary.write_text("")


def test_a_pipe_and_a_device_have_no_hash(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(OSError, match="not a file"):
            hash_file(tmp_path / name)


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hvt-deploy"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "hvt-deploy"


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (None, "Could not write to {0}/artifacts/m: Permission denied"),
        ("{0}/artifacts", "Could not write to {0}/artifacts/m: Permission denied"),
        ("{0}/artifacts/m/file", "Could not write to {0}/artifacts/m: Permission denied"),
        ("{0}/artifacts/.m.1.new", "Could not write to {0}/artifacts/m: Permission denied"),
        ("{0}/weights.pth", "The system refused {0}/weights.pth: Permission denied"),
        ("{0}/artifacts/other", "The system refused {0}/artifacts/other: Permission denied"),
    ],
)
def test_of_what_is_refused_while_writing_the_right_file_is_named(tmp_path, refused, said):
    file = refused and refused.format(tmp_path)
    with pytest.raises(MissingEnvironment) as caught, writing_to(tmp_path / "artifacts" / "m"):
        raise PermissionError(errno.EACCES, "Permission denied", file)
    assert caught.value.message == f"{said.format(tmp_path)}."


@pytest.mark.parametrize(
    ("temporary", "said"),
    [
        ("/dev/shm", "Could not write to /dev/shm, the folder for temporary files"),
        ("/dev", "new/m: No space left on device"),  # which is not full
    ],
)
def test_a_full_folder_for_temporary_files_is_named(tmp_path, monkeypatch, temporary, said):
    if Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one disk only")
    disk_usage = shutil.disk_usage
    full = disk_usage("/dev/shm")._replace(free=0)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda p: full if str(p) == "/dev/shm" else disk_usage(p)
    )
    monkeypatch.setenv("TMPDIR", temporary)
    with pytest.raises(MissingEnvironment, match=said), writing_to(tmp_path / "new" / "m"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_refusal_of_the_system_is_no_fault_of_this_program(tmp_path):
    for path, kind in (
        (tmp_path, BadInput),
        (tmp_path / "none", BadInput),
        (tmp_path / ("x" * 300), BadInput),
        ("/proc/sysrq-trigger/x", BadInput),
    ):
        with pytest.raises(OSError, match=str(path)) as caught:
            Path(path).read_bytes()
        failure = as_failure(caught.value)
        assert isinstance(failure, kind)
        assert str(path) in failure.message
    quota = as_failure(OSError(errno.EDQUOT, "Disk quota exceeded", "/cache/x"))
    assert quota.exit_code == 3
    assert "/cache/x: Disk quota exceeded" in quota.message


def test_an_array_that_numpy_half_wrote_is_a_full_disk(tmp_path):
    """NumPy's error has neither a number nor a file."""
    with (tmp_path / "x.npy").open("wb") as stream, pytest.raises(OSError) as refused:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            np.save(stream, np.zeros(1000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, ignored)
    assert refused.value.errno is None
    failure = as_failure(refused.value)
    assert isinstance(failure, MissingEnvironment)
    assert "No space left" in failure.message
    assert "TMPDIR" in failure.hint
