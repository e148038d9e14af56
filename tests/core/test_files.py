"""Hashes, and writes that appear whole or not at all."""

from __future__ import annotations

import hashlib
import stat

import pytest

from hvt_deploy.core.errors import MissingEnvironment
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


def test_a_refused_write_names_the_place_and_the_reason(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with (
        pytest.raises(MissingEnvironment, match=f"{file}: Not a directory") as caught,
        writing_to(file),
        replace_file(file / "below") as temporary,
    ):
        temporary.write_text("")
    assert caught.value.exit_code == 3


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hvt-deploy"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "hvt-deploy"
