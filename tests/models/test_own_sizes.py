"""Own sizes of the four families, from a configuration file: no code is edited."""

from __future__ import annotations

import pytest
import torch
import yaml
from command_line import run

from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.export import AskedModel, configure_export
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.model_options import DEFAULT_OPTIONS, ModelOptions
from hvt_deploy.core.run_config import dump_config
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.models.exported import spec_of_config
from hvt_deploy.models.registry import create_from, get_spec, to_deployed

OWN = {
    "fdvit_demo": {"depths": [1, 1, 1, 1]},
    "faster_vit_demo": {"depths": [1, 1, 1, 1]},
    "dfvt_demo": {"depths": [1, 1], "heads": [2, 4]},
    "hvt_demo": {"blocks": 3, "heads": 2},
}


def configure(path, name=None):
    asked = AskedModel(str(path), None, DEFAULT_OPTIONS)
    return configure_export(asked, {}, None, path.parent, name, SilentUi())


def write(path, model, architecture, **more):
    content = yaml.safe_load(dump_config(config_of(model)))
    content["options"]["architecture"] = architecture
    path.write_text(yaml.safe_dump({**content, **more}))
    return path


@pytest.mark.parametrize(("model", "architecture"), OWN.items())
def test_both_forms_of_an_own_size_agree(tmp_path, model, architecture):
    folder, config = configure(write(tmp_path / "mine.yaml", model, architecture, num_classes=3))
    spec = spec_of_config(config)
    assert folder.slug == "mine"
    assert (spec.checkpoint.url, spec.checkpoint.packaged, spec.measured) == (None, None, None)
    torch.manual_seed(0)
    reference = create_from(spec, 3).double()
    fewer = sum(p.numel() for p in reference.parameters())
    assert fewer < sum(p.numel() for p in create_from(get_spec(model), 3).parameters())
    images = torch.randn(2, 3, *spec.image_size, dtype=torch.float64)
    with torch.no_grad():
        expected = reference(images)
        assert expected.shape == (2, 3)
        assert torch.allclose(to_deployed(reference)(images), expected, atol=1e-9)


def test_a_configuration_without_own_sizes_is_the_model(tmp_path):
    (tmp_path / "hvt.yaml").write_text(dump_config(config_of("hvt_demo")))
    _, config = configure(tmp_path / "hvt.yaml")
    assert config == config_of("hvt_demo")


@pytest.mark.parametrize(
    ("architecture", "why"),
    [
        ({"depth": [1, 1, 1]}, "depth"),
        ({"depths": "many"}, "depths"),
        ({"depths": [1, 1, 1]}, "head_dims 4, heads 4, depths 3"),
        ({"mlp_ratio": 2.5}, "mlp_ratio"),
    ],
)
def test_values_that_no_architecture_has_are_named(architecture, why):
    with pytest.raises(BadInput, match=why):
        get_spec("fdvit_demo", options=ModelOptions(architecture=architecture))


def test_sizes_that_make_no_network_are_one_error():
    spec = get_spec("hvt_demo", options=ModelOptions(architecture={"heads": -1}))
    with pytest.raises(BadInput, match="make no hvt"):
        create_from(spec)


@pytest.mark.slow
def test_an_own_size_is_exported(tmp_path):
    write(tmp_path / "mine.yaml", "hvt_demo", {"blocks": 3})
    done = run("export", "mine.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "No weights of hvt_demo were published" in done.stderr
    done = run("diagnose", "mine", cwd=tmp_path)
    assert "matches pytorch" in done.stdout
