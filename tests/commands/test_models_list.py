"""`models`: the figures of the papers, names by family and pattern, 80 columns."""

from __future__ import annotations

import json

import pytest
from command_line import run

from hvt_deploy.models.registry import list_specs


def test_published_figures_stand_for_what_they_were_published_for(tmp_path):
    listed = {m["name"]: m for m in json.loads(run("models", "--json", cwd=tmp_path).stdout)}
    assert listed["faster_vit_0_any_res"]["published"] is None
    assert listed["fdvit_b"]["published"]["flops_g"] == 11.9
    assert listed["fdvit_b"]["published"]["flops_note"] == "without attention products"
    assert listed["hvt_s_0"]["published"]["flops_note"] == ""


def test_the_list_fits_80_columns_with_every_name_and_figure_whole(tmp_path):
    table = run("models", cwd=tmp_path, COLUMNS="80").stdout
    assert max(map(len, table.splitlines())) <= 80
    lines = {line.split()[0]: line.split() for line in table.splitlines() if line.strip()}
    for spec in list_specs():
        assert lines[spec.name][1] == "x".join(map(str, spec.image_size))
    assert lines["faster_vit_0_224"][2:4] == ["82.1", "95.9"]
    assert lines["fdvit_b"][2:] == ["82.39", "68.10", "14.06", "11.9"]
    assert lines["faster_vit_0_any_res"][1:] == ["576x960", "30.61", "43.19"]
    told = " ".join(table.split())
    assert "FLOPs without attention products: fdvit_ti, fdvit_s, fdvit_b" in told
    assert "MACs: of the reference form" in told
    assert "Parameters published otherwise: faster_vit_4_224 424.6 M" in told
    assert "Licence of faster_vit: code NVIDIA Source Code License-NC, weights not stated" in told
    assert "Licence of elpv: code Apache-2.0, weights CC-BY-NC-SA-4.0" in told


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--family", "dfvt"), ["dfvt_tiny", "dfvt_small", "dfvt_base", "dfvt_demo", "dfvt_elpv"]),
        (("hvt_s_[01]", "fdvit_b"), ["fdvit_b", "hvt_s_0", "hvt_s_1"]),
        (("timm:resnet1?", "hvt_demo"), ["hvt_demo", "timm:resnet18"]),
        (("timm:resnet18.tv*",), ["timm:resnet18.tv_in1k"]),
    ],
)
def test_models_are_chosen_by_family_and_pattern(arguments, names, tmp_path):
    listed = json.loads(run("models", *arguments, "--json", cwd=tmp_path).stdout)
    assert [model["name"] for model in listed] == names


def test_the_table_of_timm_has_the_licence_of_weights(tmp_path):
    done = run("models", "timm:convnextv2_nano*.fcmae_ft_in1k", cwd=tmp_path, COLUMNS="80")
    assert "timm:convnextv2_nano.fcmae_ft_in1k" in done.stdout
    assert "cc-by-nc-4.0" in done.stdout


@pytest.mark.parametrize("arguments", [("nope*",), ("--family", "resnet"), ("timm:nope*",)])
def test_what_is_not_there_is_bad_input(arguments, tmp_path):
    done = run("models", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "nope" in done.stderr or "faster_vit" in done.stderr
