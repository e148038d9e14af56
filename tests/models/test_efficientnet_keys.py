"""EfficientNets under the key names of Luke Melas-Kyriazi's port, without a download."""

from __future__ import annotations

import re

import pytest
import torch

from hvt_deploy.core.errors import BadInput
from hvt_deploy.models import create_model, get_spec
from hvt_deploy.models.weights.load import load_model

# The names that the port gives to timm's, by the place in a block: recorded from its files.
WIDENING = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
SEPARABLE = ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
SQUEEZE = ["_se_reduce", "_se_expand"]
OUTER = {
    "conv_stem": "_conv_stem",
    "bn1": "_bn0",
    "conv_head": "_conv_head",
    "bn2": "_bn1",
    "classifier": "_fc",
}


def rename_as_the_port(state):
    """timm's state dict in the port's names: the order of the tensors is the same."""
    blocks: dict[str, list[str]] = {}
    for key in state:
        part = key.rpartition(".")[0]
        if part.startswith("blocks.") and part not in blocks.setdefault(part[:10], []):
            blocks[part[:10]].append(part)
    names = {}
    for number, parts in enumerate(blocks.values()):
        plain = [part for part in parts if ".se." not in part]
        squeeze = [part for part in parts if ".se." in part]
        known = WIDENING if len(plain) == 6 else SEPARABLE
        for part, name in [*zip(plain, known, strict=True), *zip(squeeze, SQUEEZE, strict=False)]:
            names[part] = f"_blocks.{number}.{name}"
    return {
        f"{(names | OUTER)[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": tensor
        for key, tensor in state.items()
    }


@pytest.mark.parametrize("name", ["timm:tf_efficientnet_lite0", "timm:tf_efficientnet_b0"])
def test_a_checkpoint_of_the_port_is_the_same_model(name, tmp_path):
    torch.manual_seed(0)
    model = create_model(name)
    state = rename_as_the_port(model.state_dict())
    assert "_blocks.1._expand_conv.weight" in state
    assert ("_blocks.0._se_reduce.weight" in state) == name.endswith("b0")
    torch.save(state, tmp_path / "port.pth")
    loaded, report = load_model(get_spec(name), tmp_path / "port.pth")
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    assert report.summary == {"loaded": len(state)}
    meanings = {key.key: key.meaning for key in report.keys}
    assert meanings["_blocks.1._bn2.weight"] == "loaded as blocks.1.0.bn3.weight"
    assert meanings["_fc.bias"] == "loaded as classifier.bias"


def test_one_of_another_size_is_refused_by_name(tmp_path):
    state = rename_as_the_port(create_model("timm:tf_efficientnet_b1").state_dict())
    torch.save(state, tmp_path / "port.pth")
    with pytest.raises(BadInput, match="is not a checkpoint of timm:tf_efficientnet_b0"):
        load_model(get_spec("timm:tf_efficientnet_b0"), tmp_path / "port.pth")
    state = {re.sub("_blocks", "_stages", key): tensor for key, tensor in state.items()}
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(BadInput, match="unexpected"):
        load_model(get_spec("timm:tf_efficientnet_b1"), tmp_path / "other.pth")
