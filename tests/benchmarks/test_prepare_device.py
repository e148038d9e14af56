from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.prepare_device import JOIN, split_file


def test_pieces_are_joined_by_the_commands_that_are_written_next_to_them(tmp_path: Path) -> None:
    wheel, pieces = tmp_path / "some-1.0.whl", tmp_path / ".device" / "pieces"
    pieces.mkdir(parents=True)
    (tmp_path / "there").mkdir()
    wheel.write_bytes(bytes(range(256)) * 10)
    made = split_file(wheel, pieces, 1000)
    assert [piece.name[-3:] for piece in made] == [".00", ".01", ".02"]
    (join,) = (line for line in JOIN.splitlines() if "cat" in line)
    command = join.replace("/tmp", str(tmp_path / "there"))
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    assert (tmp_path / "there" / wheel.name).read_bytes() == wheel.read_bytes()
