"""Configuration files: generated from the specs, checked, overridden by flags."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import hvt_deploy
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


@pytest.mark.parametrize(
    ("written", "bad", "said"),
    [
        ("num_classes: 1000", "num_classes: 0", "num_classes: expected 1 to 100000, got 0"),
        ("image_size: [224, 224]", "image_size: [0, 224]", "image_size[0]"),
        ("crop_pct: 0.875", "crop_pct: 0", "crop_pct: expected 0.01 to 1, got 0"),
        ("crop_pct: 0.875", "crop_pct: .nan", "crop_pct"),
        ("mean: [0.485,", "mean: [.inf,", "mean[0]"),
        ("std: [0.229, 0.224", "std: [0.229, 0", "std[1]"),
        ("seed: 0, opset", "seed: -1, opset", "export.seed"),
        ("batch: null", "batch: 100000000", "export.batch: expected 1 to 1024, got 100000000"),
        ("images: 512", "images: 0", "calibration.images"),
        ("seed: 0, batch_size", "seed: -1, batch_size", "calibration.seed"),
        ("batch_size: 8}", "batch_size: -8}", "calibration.batch_size"),
        ("- [1, 8, 32]", "- [0, 8, 32]", "profiles[0][0]"),
        ("workspace_mib: 4096", "workspace_mib: -1", "workspace_mib"),
        ("limit: null", "limit: 0", "limit"),
        ("  batch_size: 8\n", "  batch_size: 0\n", "validation.batch_size"),
        ("threads: null", "threads: 1000000", "threads: expected 1 to 1024"),
        ("threads: null", "threads: -1", "threads"),
        ("latency_batches: [1]", "latency_batches: []", "latency_batches: expected 1 to 16 values"),
        ("latency_batches: [1]", "latency_batches: [0]", "latency_batches[0]"),
        ("margin: 0.5", "margin: -0.5", "margin"),
        ("max_top1_drop: null", "max_top1_drop: 101", "max_top1_drop"),
        ("min_speedup: null", "min_speedup: -1", "min_speedup"),
        ("max_latency_ms: null", "max_latency_ms: .nan", "max_latency_ms"),
        ("backends: null", "backends: []", "backends"),
        ("window_size: null", "window_size: [0]", "window_size[0]"),
        ("carrier_token_size: null", "carrier_token_size: 0", "carrier_token_size"),
        ("batch: null", f"batch: {'x' * 5000}", "expected int, got 'xxx"),
        ("batch: null", f"{'x' * 500}: 1", "unknown key 'xxx"),
        ("batch: null", f"batch: {'[' * 90}{']' * 90}", "expected int, got [[["),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(tmp_path, written, bad, said):
    text = dump_config(config_of("fdvit_b"))
    assert written in text
    (tmp_path / "c.yaml").write_text(text.replace(written, bad))
    with pytest.raises(BadInput) as caught:
        load_config(tmp_path / "c.yaml")
    assert said in caught.value.message
    assert len(caught.value.message) < 250 + len(str(tmp_path))


def test_every_dotted_key_in_the_code_is_a_key_of_the_configuration():
    sections = "export|calibration|quantization|engine|validation"
    keys = {
        node.value
        for path in Path(hvt_deploy.__file__).parent.glob("c*/*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(rf"({sections})\.[a-z0-9_]+", node.value)
        and not node.value.endswith((".json", ".md"))
    }
    assert len(keys) > 25
    with_flags(config_of("fdvit_b"), dict.fromkeys(keys))


def test_a_misspelt_dotted_key_is_a_fault_even_where_its_flag_is_not_given():
    for key in ("export.opsett", "exprot.opset"):
        with pytest.raises(KeyError):
            with_flags(config_of("fdvit_b"), {key: None})


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
