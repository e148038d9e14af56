"""Configuration that does not fit: one sentence and exit code 2, before any work."""

from __future__ import annotations

import command_line
import pytest
import yaml

from hvt_deploy.commands.config import config_of
from hvt_deploy.core.run_config import dump_config
from hvt_deploy.core.serialization import to_plain


@pytest.fixture(scope="module")
def place(tmp_path_factory, exported):
    folder = tmp_path_factory.mktemp("place")
    exported(folder / "artifacts", "hvt_demo")
    (folder / "other.yaml").write_text(dump_config(config_of("fdvit_b")))
    recipe = to_plain(config_of("hvt_demo").quantization)
    for name, change in (
        ("group", {"excluded": ["stage9/qkv"]}),
        ("role", {"int8_outputs": ["qkvv"]}),
    ):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**recipe, **change}))
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("export hvt_demo --config other.yaml", "a configuration of fdvit_b, not of hvt_demo"),
        (
            "export hvt_demo --batch 100000000",
            "'--batch': Input should be less than or equal to 1024",
        ),
        ("export hvt_demo --seed -1", "export.seed: expected 0 to 4294967295, got -1"),
        ("export hvt_demo --config artifacts", "artifacts cannot be read: Is a directory"),
        ("validate --config other.yaml", "a configuration of fdvit_b, not of hvt_demo"),
        ("validate --threads 1000000", "'--threads': Input should be less than or equal to 1024"),
        ("quantize --recipe group.yaml", "There is no group 'stage9/qkv'"),
        ("quantize --recipe role.yaml", "There is no role 'qkvv'"),
        ("quantize --recipe artifacts", "artifacts cannot be read: Is a directory"),
        ("quantize --recipe group.yaml --budget 0.5", "There is no group 'stage9/qkv'"),
    ],
)
def test_configuration_that_does_not_fit_is_named(place, arguments, said):
    done = command_line.run(*arguments.split(), cwd=place)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert "fault" not in done.stderr
