from __future__ import annotations

import subprocess
import sys

import pytest
from golden.weight_rule import facts

from hvt_deploy.errors import BadInput
from hvt_deploy.models import create_model, get_spec, list_specs
from hvt_deploy.models.specs.fdvit import FDViTArchitecture


def test_specs_are_listed_and_found() -> None:
    names = [spec.name for spec in list_specs()]
    assert names[:4] == ["fdvit_ti", "fdvit_s", "fdvit_b", "fdvit_demo"]
    assert [get_spec(name).name for name in names] == names


@pytest.mark.parametrize("name", ["fdvit_ti", "fdvit_s", "fdvit_b"])
def test_spec_agrees_with_the_recorded_facts(name: str) -> None:
    spec, recorded = get_spec(name), facts(name)
    a, h = spec.architecture, recorded["hparams"]
    assert isinstance(a, FDViTArchitecture)
    assert (a.image_size, a.patch_size, a.stride, a.mlp_ratio) == tuple(
        h[key] for key in ("image_size", "patch_size", "stride", "mlp_ratio")
    )
    lists = [a.head_dims, a.depths, a.heads, a.channels, a.map_sizes]
    assert [list(values) for values in lists] == [h[k] for k in ("base_dims", "depth", "heads", "channels", "out_size")]
    assert spec.published is not None
    for key, value in recorded["published"].items():
        assert getattr(spec.published, key) == value
    p = spec.preprocessing
    assert {"mean": list(p.mean), "std": list(p.std), "interpolation": p.interpolation} == {
        key: recorded["preprocessing"][key] for key in ("mean", "std", "interpolation")
    }
    assert (p.crop_pct, p.crop_mode) == tuple(recorded["preprocessing"][key] for key in ("crop_pct", "crop_mode"))


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(BadInput) as caught:
        create_model("fdvit_tiny")
    assert "fdvit_ti" in caught.value.hint


def test_negative_class_count_is_refused() -> None:
    with pytest.raises(BadInput, match="num_classes"):
        create_model("fdvit_demo", num_classes=-1)


def test_specs_are_read_without_torch() -> None:
    code = "import sys, hvt_deploy.models as m; m.list_specs(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
