"""Configuration files: generated from the specs, checked, overridden by flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvt_deploy.commands.config import config_of, write_configs
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.run_config import dump_config, load_config, with_flags

PACKAGED = Path(__file__).parents[2] / "export_configs"


def test_the_packaged_files_are_what_the_specs_give(tmp_path):
    written = {p.name: p.read_text() for p in write_configs(tmp_path)}
    assert written == {p.name: p.read_text() for p in PACKAGED.glob("*.yaml")}


def test_a_file_comes_back_as_it_was_written(tmp_path):
    config = config_of("fdvit_b")
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "c.yaml") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("opset: 17", "opsett: 17"), "opsett"),
        (("opset: 17", "opset: seventeen"), "expected int"),
        (("simplifier: onnxslim", "simplifier: other"), "onnxsim, onnxslim, none"),
        (("model: fdvit_b", "model: [unclosed"), "YAML"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path, change, message):
    (tmp_path / "c.yaml").write_text(dump_config(config_of("fdvit_b")).replace(*change))
    with pytest.raises(BadInput) as caught:
        load_config(tmp_path / "c.yaml")
    assert message in f"{caught.value.message} {caught.value.hint}"


def test_an_unknown_key_lists_the_known_ones(tmp_path):
    (tmp_path / "c.yaml").write_text(dump_config(config_of("fdvit_b")) + "colour: red\n")
    with pytest.raises(BadInput) as caught:
        load_config(tmp_path / "c.yaml")
    assert "preprocessing" in caught.value.hint


def test_flags_win_and_what_is_not_given_stays():
    config = with_flags(config_of("fdvit_b"), {"export.opset": 20, "export.batch": None})
    assert (config.export.opset, config.export.batch) == (20, None)
    with pytest.raises(BadInput, match="int"):
        with_flags(config, {"export.opset": "x"})
