"""The benchmark of image loading on a few small files: every loader sees every image, and the
record says so.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from benchmarks import data_speed


@pytest.mark.slow
def test_every_loader_is_measured_on_the_same_files(tmp_path, capsys) -> None:
    assert (
        data_speed.main(["--images", "40", "--rounds", "1", "--output", str(tmp_path / "speed")])
        == 0
    )
    record = json.loads((tmp_path / "speed.json").read_text())
    assert record["images"] == 40
    loaders = {line["loader"]: line for line in record["loaders"]}
    assert set(data_speed.GOALS) < set(loaders)
    assert all(line["img_per_core_second"] > 0 for line in loaders.values())
    assert loaders[data_speed.OURS]["ours_over_it_per_core_second"] == 1
    assert capsys.readouterr().out.strip() in (tmp_path / "speed.md").read_text()


def test_processor_time_counts_work_and_not_waiting() -> None:
    import time

    found: list[data_speed.Speed] = []
    with data_speed.record_speed(found, 10, 1):
        time.sleep(0.3)
    with data_speed.record_speed(found, 10, 1):
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
    waiting, working = found
    assert waiting.wall_s >= 0.3
    assert waiting.cpu_s < 0.1
    assert working.cpu_s == pytest.approx(0.3, abs=0.1)
