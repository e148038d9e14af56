from __future__ import annotations

import subprocess
import sys

import pytest
from golden.official_facts import read_facts

from hvt_deploy.core.errors import BadInput
from hvt_deploy.models import create_model, get_spec, list_specs


def test_specs_are_listed_and_found() -> None:
    names = [spec.name for spec in list_specs()]
    assert names[:4] == ["fdvit_ti", "fdvit_s", "fdvit_b", "fdvit_demo"]
    assert [get_spec(name).name for name in names] == names


@pytest.mark.parametrize("name", [s.name for s in list_specs() if not s.is_demo])
def test_spec_agrees_with_the_recorded_facts(name: str) -> None:
    spec, recorded = get_spec(name), read_facts(name)
    assert spec.measured is not None
    if "note" in recorded["published"]:  # figures of the model at another resolution
        assert spec.published is None
    else:
        for key in ("params_m", "flops_g", "top1", "top5"):
            assert getattr(spec.published, key) == recorded["published"][key]
    measured = recorded["measured"]
    assert spec.measured.params == measured.get("params_used_at_inference", measured["params"])
    assert spec.measured.macs / 1e9 == pytest.approx(measured["macs_g"], abs=5e-5)
    assert spec.num_classes == recorded["num_classes"]
    assert [3, *spec.image_size] == recorded["input_size"]
    p, evaluation = spec.preprocessing, recorded["preprocessing"]
    assert {"mean": list(p.mean), "std": list(p.std), "interpolation": p.interpolation} == {
        key: evaluation[key] for key in ("mean", "std", "interpolation")
    }
    assert (p.crop_pct, p.crop_mode) == tuple(evaluation[key] for key in ("crop_pct", "crop_mode"))
    urls = recorded["checkpoint"]["urls"]
    assert spec.checkpoint.url == (urls[0].removesuffix("?usp=sharing") if urls else None)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(BadInput) as caught:
        create_model("fdvit_tiny")
    assert "fdvit_ti" in caught.value.hint


def test_a_name_of_timm_suggests_its_prefix() -> None:
    with pytest.raises(BadInput, match="Unknown model 'test_vit'") as caught:
        get_spec("test_vit")
    assert "hvt-deploy export timm:test_vit" in caught.value.hint


def test_negative_class_count_is_refused() -> None:
    with pytest.raises(BadInput, match="num_classes"):
        create_model("fdvit_demo", num_classes=-1)


def test_specs_are_read_without_torch() -> None:
    code = "import sys, hvt_deploy.models as m; m.list_specs(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
