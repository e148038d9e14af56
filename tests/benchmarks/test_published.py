"""The published table on a small set: measured next to published, failures reported, exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hvt_deploy.data.digits import write_digits
from hvt_deploy.evaluation.scores import Interval

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from benchmarks.published import Line, configured, main, published, weights_of
from hvt_deploy.core.errors import BadInput
from hvt_deploy.models.registry import get_spec


def test_a_table_of_trained_models_and_one_that_fails(tmp_path, capsys) -> None:
    digits = write_digits(tmp_path / "digits")
    arguments = ["--data", str(digits.validation), "--workspace", str(tmp_path / "artifacts")]
    output = ["--output", str(tmp_path / "published")]
    assert main(["--models", "hvt_demo", *arguments, *output]) == 0
    lines = json.loads((tmp_path / "published.json").read_text())["lines"]
    assert [line["backend"] for line in lines] == ["pytorch fp32", "ort fp32"]
    assert all(line["images"] == 500 and line["top1"]["estimate"] > 95 for line in lines)
    assert all(line["difference"] is None for line in lines), (
        "nothing was published of a demo model"
    )
    assert "| hvt_demo | ort fp32 | 500 |" in (tmp_path / "published.md").read_text()

    missing = ["--weights-dir", str(tmp_path)]
    assert main(["--models", "hvt_demo", *arguments, *output, *missing]) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("low", "high", "agrees"),
    [(81.0, 83.0, True), (82.2, 83.0, True), (82.21, 83.0, False), (80.0, 81.9, False)],
)
def test_agreement_is_the_interval_and_a_tenth_of_a_point(low, high, agrees) -> None:
    line = Line("m", "ort", 50_000, 82.1, 95.9, Interval((low + high) / 2, low, high))
    assert line.agrees == agrees
    assert ("NOT the published" in line.cells()[-1]) == (not agrees)


def test_untrained_weights_are_not_compared() -> None:
    line = Line("m", "ort", 100, 82.1, 95.9, Interval(0.1, 0.0, 0.5), untrained=True)
    assert line.agrees
    assert line.cells()[-1] == "untrained, not comparable"


def test_the_robustness_table_has_its_own_figures_and_crop() -> None:
    spec = get_spec("faster_vit_0_224")
    assert published(spec, None) == (82.1, 95.9)
    assert published(spec, "imagenet-a") == (23.9, 57.6)
    assert published(get_spec("fdvit_b"), "imagenet-a") == (None, None)
    config = configured("faster_vit_3_224", "imagenet-r", "auto")
    assert (config.preprocessing.crop_pct, config.validation.subset) == (0.875, "imagenet-r")
    assert configured("faster_vit_3_224", None, "auto").preprocessing.crop_pct == 1.0


def test_checkpoints_are_found_by_name(tmp_path) -> None:
    (tmp_path / "fdvit_b.pth").touch()
    assert weights_of("fdvit_b", tmp_path) == str(tmp_path / "fdvit_b.pth")
    assert weights_of("fdvit_b", None) == "auto"
    with pytest.raises(BadInput, match="holds no checkpoint of fdvit_s"):
        weights_of("fdvit_s", tmp_path)
