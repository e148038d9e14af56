"""Small ViT and Swin classifiers of transformers as ONNX files: a program of its own, since only a
test's own environment has that package.

    PYTHONPATH=folder/with/transformers python write_transformers.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from foreign_files import draw, write_dynamo, write_legacy
from torch import nn
from transformers import (
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

IMAGES = {"image_size": 32, "num_labels": 7}


class Logits(nn.Module):
    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, images):
        return self.classifier(images).logits


def make_vit():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTConfig(**sizes, intermediate_size=64, patch_size=8, **IMAGES)
    return draw(Logits(ViTForImageClassification(config)))


def make_swin():
    sizes = {"embed_dim": 16, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4}
    return draw(Logits(SwinForImageClassification(SwinConfig(**sizes, patch_size=2, **IMAGES))))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write_legacy(make_vit(), folder / "vit_legacy.onnx")
    write_dynamo(make_vit(), folder / "vit_dynamo.onnx")
    write_legacy(make_swin(), folder / "swin_legacy.onnx")
