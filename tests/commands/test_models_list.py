"""`models`: published figures with the paper's digits, and what published FLOPs leave out."""

from __future__ import annotations

import json

from command_line import run


def test_published_figures_stand_for_what_they_were_published_for(tmp_path):
    listed = {m["name"]: m for m in json.loads(run("models", "--json", cwd=tmp_path).stdout)}
    assert listed["faster_vit_0_any_res"]["published"] is None
    assert listed["fdvit_b"]["published"]["flops_g"] == 11.9
    assert listed["fdvit_b"]["published"]["flops_note"] == "without attention products"
    assert listed["hvt_s_0"]["published"]["flops_note"] == ""
    table = run("models", cwd=tmp_path, COLUMNS="200").stdout
    lines = {line.split()[0]: line.split() for line in table.splitlines() if line.strip()}
    assert lines["faster_vit_0_224"][2] == "82.1"
    assert lines["fdvit_b"][2:7] == ["82.39", "68.10", "68.1", "14.06", "11.9"]
    assert lines["faster_vit_0_any_res"][1:4] == ["576x960", "30.61", "43.19"]
    assert "FLOPs without attention products: fdvit_ti, fdvit_s, fdvit_b" in table
    assert "MACs: of the reference form" in table
