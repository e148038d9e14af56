"""How the demo models are trained: all that decides their weights besides network and images.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """Random changes of an image that leave its class. Shares of its side, unless said."""

    rotation: float
    """Largest angle, radians."""
    shear: float
    """Largest shear."""
    scale: float
    """Side of the part that is seen; below 1 it is a crop."""
    scale_spread: float
    """Largest difference from `scale`."""
    shift: float
    """Largest shift, in halves of the side."""
    flips: bool
    """Whether images are mirrored, left to right and top to bottom, each for every second one."""


@dataclass(frozen=True)
class TrainingRecipe:
    """How a demo model is trained."""

    augmentation: Augmentation
    """Of every image in every epoch."""
    epochs: int
    """Passes over the images."""
    seed: int = 0
    """Of the weights, the order of images and the augmentation."""
    batch_size: int = 50
    """Images of a step."""
    peak_rate: float = 1.5e-3
    """Learning rate after the warm-up."""


# No digit becomes another one; a defect of a solar cell is one from every side.
DIGITS_AUGMENTATION = Augmentation(0.2, 0.2, 1.0, 0.15, 0.2, flips=False)
ELPV_AUGMENTATION = Augmentation(0.05, 0.0, 0.9, 0.1, 0.1, flips=True)
# By family: minutes on one core. FDViT learns nothing at twice its rate, and more by many small
# steps.
ELPV_RECIPES = {
    "fdvit": TrainingRecipe(ELPV_AUGMENTATION, epochs=90, batch_size=20, peak_rate=1e-3),
    "faster_vit": TrainingRecipe(ELPV_AUGMENTATION, epochs=50),
    "dfvt": TrainingRecipe(ELPV_AUGMENTATION, epochs=40),
    "hvt": TrainingRecipe(ELPV_AUGMENTATION, epochs=60),
}
