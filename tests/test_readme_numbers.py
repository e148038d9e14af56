"""README's numbers are those of the records and tests that it names, and each row says how it is
measured.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.readme_claims import list_commands
from hvt_deploy.evaluation.export_parity import PROVED_BATCHES
from hvt_deploy.graph.opset import SUPPORTED_OPSETS
from hvt_deploy.models import get_spec
from hvt_deploy.models.golden_check import TOLERANCE_FLOAT32

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLE = README.partition("## What is verified")[2].partition("### Not verified yet")[0]
ROWS = [row.strip("| ").split(" | ") for row in TABLE.splitlines() if row.startswith("| ")][1:]
# Digits that are in a name, a version or the size of an input: nobody measured them.
NAMES = re.compile(
    r"\b(?:INT8|FP(?:16|32)|u?int8|SM\d+|[HL]\d+|(?:float|arm|aarch|x86-)(?:32|64)"
    r"|RTX 1\.7|Python 3\.\d+(?: and 3\.\d+)?|on 3\.10|10\.3|10\.13|11\.4"
    r"|profile 1,8,32|for batch 8|batch 1 and 8"
    r"|(?:faster_vit|fdvit|dfvt|hvt)_\w+|\d+x\d+)\b"
)


def read(name: str):
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def by_model(rows):
    return {row["model"]: row for row in rows}


def check_all():
    return f"all {len(read('check_all.json')['rows'])} names verified"


def kernels():
    ours = by_model(read("int8_placement.json")["models"])
    official = json.loads((ROOT / "benchmarks" / "official_exports.json").read_text())["models"]
    for model in ("faster_vit_0_224", "dfvt_base", "hvt_s_1", "fdvit_b"):
        count = ours[model]["rows"]["FP16"]["batch 8"]["kernels"]
        routes = [count / official[model][route]["kernels"] for route in ("raw", "onnxsim")]
        raw, simplified = (f"**{r:.2f}**" if r > 1 else f"{r:.2f}" for r in routes)
        yield f"{model} {count}: {raw} / {simplified}"


def calibration_time():
    models = by_model(read("calibration_time.json")["models"])

    def seconds(model):
        rows = {row["row"]: row["cpu_s"] for row in models[model]["rows"]}
        wanted = ("default", "--calibrator max, no recovery", "quantize_static")
        return [rows[row] for row in wanted]

    default, fewest, theirs = seconds("faster_vit_0_224")
    yield f"measured, {models['faster_vit_0_224']['images']} images"
    yield f"faster_vit_0_224 {default:.0f} s by default, {fewest} s with"
    yield f"{theirs} s `quantize_static`"
    default, fewest, theirs = seconds("fdvit_b")
    yield f"fdvit_b {default:.0f}, {fewest:.0f} and {theirs:.0f} s"


def data_speed():
    loaders = {row["loader"]: row for row in read("data_speed.json")["loaders"]}
    limit = loaders["Pillow, decode and resize only"]["ours_over_it_per_core_second"]
    busy = 100 * loaders["hvt-deploy"]["cores_busy"]
    default = loaders["timm create_loader, one worker, its default"]
    every_core = loaders["timm create_loader, all cores"]
    yield f"{limit:.2f} of the limit with {busy:.0f} % of two cores busy"
    yield f"{default['ours_over_it_per_wall_second']:.1f} times as fast as timm's loader"
    yield f"{every_core['ours_over_it_per_wall_second']:.1f} times with one worker per core"


def large_export():
    row = by_model(read("large_export.json")["rows"])["faster_vit_6_224"]
    size = get_spec("faster_vit_6_224").measured.params / 1e9
    yield f"faster_vit_6_224 ({size:.2f} G parameters) took {row['peak_together_gb']['anonymous']}"
    yield f"{row['seconds'] / 60:.0f} minutes (`python benchmarks/large_export.py`, "


def first_commands():
    record = read("first_commands.json")
    install, demo = record["install"], record["demo"]
    yield (
        f"{install['download_bytes'] / 1e9:.1f} GB of downloads (mostly PyTorch's CUDA build), "
        f"{install['disk_bytes'] / 1e9:.1f} GB of disk"
    )
    yield (
        f"on {record['cores']} cores it took {install['seconds']} seconds, "
        f"the demo {demo['seconds']} more"
    )


def cost_line():
    rows = by_model(read("int8_placement.json")["models"])["faster_vit_0_224"]["rows"]
    int8, fp16 = (rows[name]["batch 8"] for name in ("chosen", "FP16"))
    ours, theirs = (cost["activations_mib"] + cost["weights_mib"] for cost in (int8, fp16))
    yield (
        f"INT8: {int8['kernels']} kernels, {int8['activations_mib']:.0f} + "
        f"{int8['weights_mib']:.0f} MiB; FP16: {fp16['kernels']} kernels, "
        f"{fp16['activations_mib']:.0f} + {fp16['weights_mib']:.0f} MiB"
    )
    yield (
        f"INT8 moves {100 * (1 - ours / theirs):.0f} % less than FP16 in "
        f"{100 * (int8['kernels'] / fp16['kernels'] - 1):.0f} % more kernels"
    )


def limits_of_tests():
    """What a test demands is in the test."""
    for claim, file, line in (
        ("float64, 1e-9", "models/test_deployed_forms.py", "difference <= 1e-9"),
        ("gains of 3,", "models/forms.py", "parameter.data.mul_(3)"),
        ("pixels within 1 of 255", "graph/test_preprocess.py", "difference.max() < 1.01"),
        ("within 8 where", "graph/test_preprocess.py", "difference.max() < 8"),
    ):
        assert line in (ROOT / "tests" / file).read_text(encoding="utf-8"), (file, line)
        yield claim
    yield f"within {TOLERANCE_FLOAT32:.0e}".replace("e-04", "e-4") + " of the largest logit"
    yield f"batches {', '.join(map(str, PROVED_BATCHES))}"
    yield f"opsets {SUPPORTED_OPSETS[0]}–{SUPPORTED_OPSETS[-1]}"


def quantizers():
    """The draws of the comparison that were measured, and the goals that were missed there."""
    record = read("quantization.json")
    yield f"{len(record['models'])} of 27 draws"
    compared = [
        (against["p"] < 0.05, rows[ours]["top1"]["estimate"] - rows[peer]["top1"]["estimate"])
        for rows in (model["rows"] for model in record["models"])
        for ours in rows
        for peer, against in rows[ours].get("against", {}).items()
    ]
    gains = [gain for significant, gain in compared if significant]
    lost, won = sum(gain < 0 for gain in gains), sum(gain > 0 for gain in gains)
    yield f"{len(compared)} comparisons of top-1 {lost} are lost and {won} won at p < 0.05"
    missed = len(record["missed"])
    yield f"{missed} goals missed, which the table names" if missed else "all goals met"


def reliability():
    record = read("reliability.json")
    verbs, groups = record["crash_points"], record["bad_input"].values()
    bounds = [group["bound_mib"] for name, group in record["bad_input"].items() if name != "memory"]
    assert all(group["clean"] == group["kinds"] for group in groups)
    for tried in ("crash_points", "kills", "at_once"):
        assert not any(row["faults"] for row in record[tried]), tried
    yield f"{sum(group['kinds'] for group in groups)} kinds clean"
    yield f"({min(bounds)} to {max(bounds)} MiB by group)"
    yield f"{len(verbs)} cases of {len({row['verb'].split()[0] for row in verbs})} verbs"
    before, within = (sum(row[key] for row in verbs) for key in ("killed", "in_files"))
    yield f"ended {before} times before a step and {within} times in a new file"
    yield f"{sum(row['killed'] for row in record['kills'])} real runs killed"
    yield f"{sum(row['at_once'] for row in record['at_once'])} commands at once"


def claims():
    yield check_all()
    yield from quantizers()
    for source in (kernels, calibration_time, data_speed, large_export, first_commands):
        yield from source()
    yield from cost_line()
    yield from reliability()
    yield from limits_of_tests()


@pytest.mark.parametrize("claim", list(claims()))
def test_a_number_is_that_of_its_record(claim):
    assert claim in README


def test_no_other_number_is_in_the_table():
    left = re.sub(r"\]\([^)]*\)", "]", TABLE)
    for claim in claims():
        left = left.replace(claim, "")
    left = NAMES.sub("", re.sub(r"`[^`]*`", "", left))
    assert [line for line in left.splitlines() if re.search(r"\d", line)] == []


NOT_RUN = re.findall(r"`([^`]*)`", README.partition("Not run so: ")[2].partition("\n\n")[0])
OUTCOMES = {row["command"]: row for row in read("readme_claims.json")["rows"]}


@pytest.mark.parametrize("command", [*list_commands()])
def test_a_test_that_is_a_claim_was_run_and_passed_or_is_named(command):
    """Each command has its outcome, or README says that it has none."""
    assert (command in OUTCOMES) != (command in NOT_RUN)
    if command in OUTCOMES:
        outcome = OUTCOMES[command]
        assert outcome["exit_code"] == 0
        assert outcome.get("passed", 0) > 0 or not command.startswith("pytest")


def test_only_commands_of_the_table_are_named_as_not_run():
    assert {*NOT_RUN} <= {*list_commands()}


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:40] for row in ROWS])
def test_a_row_has_its_command_and_its_record(row):
    _, how, state = row
    commands = re.findall(r"`([^`]*)`", how)
    runs = ("pytest ", "python benchmarks/", "hvt-deploy ", "make ", "docker/check.sh")
    assert any(command.startswith(runs) for command in commands)
    for script in re.findall(r"python benchmarks/(\w+)\.py", how):
        record = RESULTS / f"{script}.json"
        assert f"benchmarks/results/{record.name}" in how + state
        assert f"python benchmarks/{script}.py" in record.read_text(encoding="utf-8")
