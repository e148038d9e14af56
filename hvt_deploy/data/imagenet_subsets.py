"""ImageNet-A, -R and -V2: their classes and the names of their folders.

ImageNet-A and -R hold 200 classes each (arXiv:1907.07174, arXiv:2006.16241): top-1 is over the
logits of these classes alone. ImageNet-V2 (arXiv:1902.10811) has all 1000, in folders named by
class number.
"""

from __future__ import annotations

from collections.abc import Mapping

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.types import SubsetName
from hvt_deploy.data.assets import asset_path
from hvt_deploy.data.class_names import ClassNames, load_imagenet_1k


def read_subset_wnids(subset: SubsetName) -> tuple[str, ...]:
    """The WordNet ids of a subset's classes, sorted."""
    if subset == "imagenet-v2":
        return load_imagenet_1k().wnids or ()
    text = asset_path(f"{subset.replace('-', '_')}.txt").read_text(encoding="utf-8")
    return tuple(text.split())


def find_subset_classes(subset: SubsetName, names: ClassNames) -> tuple[int, ...]:
    """The numbers of a subset's classes in a model with these class names, in ascending order.

    Raises BadInput for a model whose classes are not those of ImageNet.
    """
    position = {wnid: i for i, wnid in enumerate(names.wnids or ())}
    wnids = read_subset_wnids(subset)
    if any(wnid not in position for wnid in wnids):
        raise BadInput(
            f"--subset {subset} is for models of the 1000 ImageNet classes; this model has others.",
            "Leave --subset out, or give ImageNet's names with --class-names when exporting.",
        )
    return tuple(sorted(position[wnid] for wnid in wnids))


def label_folders(subset: SubsetName, folders: list[str], names: ClassNames) -> Mapping[str, int]:
    """The class number of each folder of a subset.

    Folders of ImageNet-A and -R are wnids, those of ImageNet-V2 positions in ImageNet's order, 0 to
    999. Raises BadInput naming the folders that are not of the subset.
    """
    wnids = read_subset_wnids(subset)
    known = (
        {str(i): wnid for i, wnid in enumerate(wnids)}
        if subset == "imagenet-v2"
        else {w: w for w in wnids}
    )
    wrong = [folder for folder in folders if folder not in known]
    if wrong:
        shown = ", ".join(f"'{folder}'" for folder in wrong[:8])
        form = "class numbers, 0 to 999" if subset == "imagenet-v2" else f"{len(wnids)} wnids"
        raise BadInput(
            f"{len(wrong)} of {len(folders)} folders are not classes of {subset}: {shown}"
            f"{' and more' if len(wrong) > 8 else ''}.",
            f"The folders of {subset} are {form}. Is --data the folder that holds them?",
        )
    find_subset_classes(subset, names)
    position = {wnid: i for i, wnid in enumerate(names.wnids or ())}
    return {folder: position[known[folder]] for folder in folders}
