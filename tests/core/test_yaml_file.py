"""YAML files from outside: read within bounds, and one short sentence for each that is refused."""

from __future__ import annotations

import time

import pytest

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.yaml_file import read_yaml

# 426 bytes that are ten levels of nine references each: 9^10 values.
BOMB = "a: &a [x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "line 2: an alias"),
        ("a: 1\nb: 2\na: 3", "line 3: the key a twice"),
        ("{a: {b: 1, b: 2}}", "the key b twice"),
        ("[" * 60_000, "nested too deep"),
        ("{a: " * 15_000, "nested too deep"),
        ("a: " + "x" * 70_000, "64 KiB"),
        ("{[1]: 2}", "a key that is no word"),
        (f"a: !!python/object/apply:os.system [{'x' * 9000}]", "constructor for the tag"),
        (f"a: !{'x' * 9000} 1", "constructor for the tag"),
        ("a: 2026-13-45", "month must be in"),
        ("a: " + "9" * 5000, "4300"),
        ("a: [1", "line 1"),
        ("\x00", "not valid YAML"),
    ],
)
def test_a_file_is_refused_at_once_in_one_short_sentence(tmp_path, text, said):
    (tmp_path / "c.yaml").write_text(text)
    started = time.monotonic()
    with pytest.raises(BadInput) as caught:
        read_yaml(tmp_path / "c.yaml", "advice")
    assert time.monotonic() - started < 5
    message = caught.value.message.replace(str(tmp_path), "")
    assert said in message
    assert len(message) < 250
    assert "\n" not in message


def test_what_is_no_file_is_named(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe4")
    for path, said in (
        (tmp_path, "cannot be read: Is a directory"),
        (tmp_path / "none.yaml", "There is no file"),
        (tmp_path / "latin.yaml", "utf-8"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(BadInput, match=said):
            read_yaml(path, "advice")
