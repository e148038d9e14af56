"""ImageNet-A, -R and -V2: their class lists and how their folders are read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.types import SubsetName
from hvt_deploy.data.class_names import load_imagenet_1k
from hvt_deploy.data.folders import open_image_folder
from hvt_deploy.data.imagenet_subsets import find_subset_classes, read_subset_wnids

SHA256 = {
    "imagenet-a": "9826a24166e74ce62fb87b27889874ca26917542c745712309d6e25855d63bc2",
    "imagenet-r": "a6a0729f7a99230280639cab6e51e01485a3b41a676ea35621a501c9d6e83ca4",
}


def write_images(root: Path, *folders: str) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / folder / "a.png")
    return root


@pytest.mark.parametrize("subset", ["imagenet-a", "imagenet-r"])
def test_the_lists_are_the_published_ones(subset: SubsetName) -> None:
    wnids = read_subset_wnids(subset)
    assert len(wnids) == len(set(wnids)) == 200
    assert list(wnids) == sorted(wnids)
    assert set(wnids) <= set(load_imagenet_1k().wnids or ())
    assert hashlib.sha256("".join(f"{w}\n" for w in wnids).encode()).hexdigest() == SHA256[subset]


def test_v2_has_every_class() -> None:
    assert find_subset_classes("imagenet-v2", load_imagenet_1k()) == tuple(range(1000))


def test_wnid_folders_get_the_model_s_numbers(tmp_path: Path) -> None:
    first, *_, last = read_subset_wnids("imagenet-r")
    write_images(tmp_path, first, last)
    opened = open_image_folder(tmp_path, load_imagenet_1k(), 1000, subset="imagenet-r")
    wnids = load_imagenet_1k().wnids or ()
    assert [wnids[s.label] for s in opened.samples] == [first, last]
    assert "imagenet-r" in opened.mapping


def test_v2_folders_are_numbers_and_not_sorted_as_text(tmp_path: Path) -> None:
    write_images(tmp_path, "0", "10", "2", "999")
    opened = open_image_folder(tmp_path, load_imagenet_1k(), 1000, subset="imagenet-v2")
    assert {s.path.parent.name: s.label for s in opened.samples} == {
        "0": 0,
        "10": 10,
        "2": 2,
        "999": 999,
    }


def test_a_class_outside_the_subset_is_named(tmp_path: Path) -> None:
    write_images(
        tmp_path, read_subset_wnids("imagenet-a")[0], "n01440764"
    )  # tench: not in ImageNet-A
    with pytest.raises(
        BadInput, match=r"1 of 2 folders are not classes of imagenet-a: 'n01440764'"
    ):
        open_image_folder(tmp_path, load_imagenet_1k(), 1000, subset="imagenet-a")


def test_a_model_of_other_classes_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, read_subset_wnids("imagenet-a")[0])
    with pytest.raises(BadInput, match="1000 ImageNet classes"):
        open_image_folder(tmp_path, None, 10, subset="imagenet-a")
