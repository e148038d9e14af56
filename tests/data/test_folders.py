from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from hvt_deploy.core.errors import BadInput
from hvt_deploy.data import class_names, labels_file
from hvt_deploy.data.calibration_set import choose_calibration
from hvt_deploy.data.class_names import ClassNames, Match, load_imagenet_1k, number_classes
from hvt_deploy.data.folders import Sample, find_images, open_image_folder
from hvt_deploy.data.sampling import draw_stratified_sample, hash_contents

PETS = ClassNames(("cat", "dog, hound", "guinea pig"))


def write_files(folder: Path, *names: str) -> Path:
    """Files with distinct content; datasets looks at names only."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"content of {name}".encode())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def labels_of(
    folder: Path, names: ClassNames | None, num_classes: int, labels: Path | None = None
) -> dict[str, int]:
    opened = open_image_folder(folder, names, num_classes, labels)
    assert opened.path == folder
    assert opened.classes == tuple(sorted({s.label for s in opened.samples}))
    return {s.path.relative_to(folder).as_posix(): s.label for s in opened.samples}


def test_folders_named_by_wnid(tmp_path: Path) -> None:
    write_files(tmp_path, "n01443537/b.JPEG", "n01440764/a.JPEG", "n15075141/c.JPEG")
    opened = open_image_folder(tmp_path, load_imagenet_1k(), 1000)
    assert [(s.path.name, s.label) for s in opened.samples] == [
        ("a.JPEG", 0),
        ("b.JPEG", 1),
        ("c.JPEG", 999),
    ]
    assert opened.classes == (0, 1, 999)
    assert opened.mapping == "3 class folders matched to classes by wnid."


def test_folders_named_by_class_in_any_spelling_and_a_synonym(tmp_path: Path) -> None:
    write_files(tmp_path, "Cat/a.jpg", "hound/b.png", "GUINEA_PIG/c.webp")
    assert labels_of(tmp_path, PETS, 3) == {
        "Cat/a.jpg": 0,
        "hound/b.png": 1,
        "GUINEA_PIG/c.webp": 2,
    }


def test_folders_named_by_number_need_no_names(tmp_path: Path) -> None:
    write_files(tmp_path, "7/a.jpg", "10/b.jpg", "2/c.jpg")
    assert labels_of(tmp_path, None, 11) == {"7/a.jpg": 7, "10/b.jpg": 10, "2/c.jpg": 2}


def test_folders_may_be_named_in_several_ways_and_the_mapping_says_so(tmp_path: Path) -> None:
    write_files(tmp_path, "n01440764/a.jpg", "goldfish/b.jpg", "2/c.jpg")
    opened = open_image_folder(tmp_path, load_imagenet_1k(), 1000)
    assert opened.classes == (0, 1, 2)
    assert "wnid and class name and class number" in opened.mapping


def test_sorted_order_only_if_no_name_is_known_and_the_number_fits_and_it_is_said(
    tmp_path: Path,
) -> None:
    write_files(tmp_path, "zebra/a.jpg", "ant/b.jpg", "yak/c.jpg")
    opened = open_image_folder(tmp_path, None, 3)
    assert {s.path.parent.name: s.label for s in opened.samples} == {"ant": 0, "yak": 1, "zebra": 2}
    assert "sorted order" in opened.mapping
    assert "'ant' = class 0" in opened.mapping
    assert "'zebra' = class 2" in opened.mapping


def test_a_class_folder_without_images_keeps_its_place_in_the_sorted_order(tmp_path: Path) -> None:
    write_files(tmp_path, "ant/b.jpg", "zebra/a.jpg")
    (tmp_path / "yak").mkdir()
    assert labels_of(tmp_path, None, 3) == {"ant/b.jpg": 0, "zebra/a.jpg": 2}
    with pytest.raises(BadInput, match="fit no class"):
        open_image_folder(tmp_path, None, 2)


@pytest.mark.parametrize("folders", [("ant", "yak"), ("ant", "yak", "zebra", "emu")])
def test_unknown_folders_that_do_not_add_up_are_named(
    tmp_path: Path, folders: Sequence[str]
) -> None:
    write_files(tmp_path, *(f"{f}/a.jpg" for f in folders))
    with pytest.raises(BadInput, match="fit no class") as caught:
        open_image_folder(tmp_path, None, 3)
    assert all(f"'{folder}'" in caught.value.message for folder in folders)


def test_one_known_name_forbids_sorted_order(tmp_path: Path) -> None:
    write_files(tmp_path, "cat/a.jpg", "dogs/b.jpg", "pig/c.jpg")
    with pytest.raises(BadInput, match=r"2 of 3 folders .* fit no class: 'dogs', 'pig'") as caught:
        open_image_folder(tmp_path, PETS, 3)
    assert "--class-names" in caught.value.hint


def test_numbers_that_start_at_one_are_an_error_and_not_shifted(tmp_path: Path) -> None:
    write_files(tmp_path, "1/a.jpg", "2/a.jpg", "3/a.jpg")
    with pytest.raises(BadInput, match="'3'") as caught:
        open_image_folder(tmp_path, None, 3)
    assert "0 to 2" in caught.value.hint


def test_many_misfits_are_counted_not_all_listed(tmp_path: Path) -> None:
    write_files(tmp_path, *(f"x{i:02d}/a.jpg" for i in range(40)))
    with pytest.raises(BadInput, match="and 32 more"):
        open_image_folder(tmp_path, PETS, 3)


def test_the_folder_above_the_class_folders_is_recognised(tmp_path: Path) -> None:
    write_files(tmp_path, "val/cat/a.jpg", "val/dog/b.jpg")
    with pytest.raises(BadInput) as caught:
        open_image_folder(tmp_path, PETS, 3)
    assert f"Did you mean {tmp_path / 'val'}?" in caught.value.hint


def test_a_name_of_two_classes_is_an_error_with_both(tmp_path: Path) -> None:
    write_files(tmp_path, "crane/a.jpg", "tench/b.jpg")
    with pytest.raises(BadInput, match=r"'crane'.*n02012849.*n03126707"):
        open_image_folder(tmp_path, load_imagenet_1k(), 1000)


def test_two_folders_of_one_class_are_an_error_with_both(tmp_path: Path) -> None:
    write_files(tmp_path, "n01440764/a.jpg", "tench/b.jpg")
    with pytest.raises(BadInput, match=r"'n01440764' and 'tench'.*same class 0"):
        open_image_folder(tmp_path, load_imagenet_1k(), 1000)


def test_names_for_another_number_of_classes_are_an_error(tmp_path: Path) -> None:
    write_files(tmp_path, "cat/a.jpg")
    with pytest.raises(BadInput, match=r"5 classes, but 3 class names"):
        open_image_folder(tmp_path, PETS, 5)


@pytest.mark.parametrize("what", ["missing", "empty", "no images", "file"])
def test_a_folder_without_images_shows_the_expected_tree_and_what_works_now(
    tmp_path: Path, what: str
) -> None:
    path = tmp_path / "val"
    if what == "file":
        path.write_bytes(b"")
    elif what != "missing":
        write_files(path, *(["cat/notes.txt"] if what == "no images" else []))
    with pytest.raises(BadInput) as caught:
        open_image_folder(path, PETS, 3)
    assert caught.value.exit_code == 2
    _, *tree = caught.value.message.splitlines()
    assert len(tree) == 4
    assert tree[0].strip() == f"{path}/"
    assert "hvt-deploy demo" in caught.value.hint


def test_hidden_files_other_files_and_empty_folders_are_ignored(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        "cat/a.JPG",
        "cat/.b.jpg",
        "cat/._c.jpg",
        "cat/Thumbs.db",
        "cat/notes.txt",
        ".cache/d.jpg",
        "cat/.trash/e.jpg",
        "README",
        "dog/f.Tiff",
    )
    (tmp_path / "nothing here").mkdir()
    assert labels_of(tmp_path, PETS, 3) == {"cat/a.JPG": 0, "dog/f.Tiff": 1}


def test_nested_folders_belong_to_their_class(tmp_path: Path) -> None:
    write_files(tmp_path, "cat/day/1/a.jpg", "cat/night/a.jpg", "dog/cat/b.jpg")
    expected = {"cat/day/1/a.jpg": 0, "cat/night/a.jpg": 0, "dog/cat/b.jpg": 1}
    assert labels_of(tmp_path, PETS, 3) == expected


def test_images_beside_class_folders_are_left_out_and_it_is_said(tmp_path: Path) -> None:
    write_files(tmp_path, "cat/a.jpg", "overview.png")
    opened = open_image_folder(tmp_path, PETS, 3)
    assert [s.path.name for s in opened.samples] == ["a.jpg"]
    assert "1 image outside class folders ignored" in opened.mapping


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    store = write_files(tmp_path / "store", "a.jpg", "b.jpg")
    root = write_files(tmp_path / "set", "dog/c.jpg")
    (root / "cat").symlink_to(store)
    (root / "dog" / "d.jpg").symlink_to(store / "a.jpg")
    (root / "dog" / "round").symlink_to(root / "dog")
    expected = {"cat/a.jpg": 0, "cat/b.jpg": 0, "dog/c.jpg": 1, "dog/d.jpg": 1}
    assert labels_of(root, PETS, 3) == expected


def test_a_folder_that_may_not_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(BadInput, match="Permission denied"):
        find_images(tmp_path)


def test_a_link_to_itself_is_named(tmp_path: Path) -> None:
    root = write_files(tmp_path / "set", "cat/a.jpg")
    (root / "dog").symlink_to("dog")
    with pytest.raises(BadInput, match=r"set/dog cannot be read: Too many levels"):
        find_images(root)
    with pytest.raises(BadInput, match="dog is a link that leads nowhere"):
        find_images(root / "dog")


def test_a_name_that_is_too_long_for_the_system_is_an_error(tmp_path: Path) -> None:
    for use in (find_images, lambda path: open_image_folder(path, PETS, 3)):
        with pytest.raises(BadInput, match="File name too long"):
            use(tmp_path / ("a" * 300))


def test_a_minus_is_a_sign_and_a_number_of_thousands_of_digits_is_no_class(tmp_path: Path) -> None:
    names = number_classes(3)
    for text in ("-1", "_1", " -1", "- 1", "-0", "+1", "1.0", "9" * 5000):
        assert names.find(text) is None, text[:9]
    assert names.find("001") == Match("class number", (1,))
    write_files(tmp_path, "0/a.jpg", "-1/b.jpg")
    with pytest.raises(BadInput, match=r"1 of 2 folders .* fit no class: '-1'"):
        open_image_folder(tmp_path, None, 3)


def test_a_pipe_among_the_images_is_named_where_content_is_hashed(tmp_path: Path) -> None:
    write_files(tmp_path, "cat/a.jpg")
    os.mkfifo(tmp_path / "cat" / "b.jpg")
    with pytest.raises(BadInput, match=r"b\.jpg cannot be read: it is not a file"):
        choose_calibration(tmp_path, 5, seed=0)


def test_a_flat_folder_asks_for_labels(tmp_path: Path) -> None:
    write_files(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(BadInput, match="2 images but no class folders") as caught:
        open_image_folder(tmp_path, PETS, 3)
    assert "--labels" in caught.value.hint


LABEL_FILES = {
    "spaces": "a.jpg cat\nb.jpg guinea pig\n",
    "numbers": "a.jpg 0\nb.jpg 2\n",
    "tabs": "a.jpg\tcat\nb.jpg\tguinea pig\n",
    "csv": "a.jpg,cat\nb.jpg,guinea_pig\n",
    "header": "file,label\r\na.jpg,0\r\nb.jpg,2\r\n",
    "header with spaces": "image label\na.jpg cat\n\nb.jpg 2\n",
    "quoted": '"a.jpg","cat"\n"b.jpg","guinea pig"\n',
    "dot": "./a.jpg 0\n./b.jpg 2\n",
    "byte order mark": "\ufefffile,label\na.jpg,0\nb.jpg,2\n",
}


@pytest.mark.parametrize("text", LABEL_FILES.values(), ids=LABEL_FILES)
def test_a_file_of_labels(tmp_path: Path, text: str) -> None:
    root = write_files(tmp_path / "val", "a.jpg", "b.jpg")
    labels = tmp_path / "val.txt"
    labels.write_text(text, encoding="utf-8")
    assert labels_of(root, PETS, 3, labels) == {"a.jpg": 0, "b.jpg": 2}


def test_labels_by_wnid_and_by_a_name_with_commas_for_files_with_spaces_and_folders(
    tmp_path: Path,
) -> None:
    root = write_files(tmp_path / "val", "my fish.jpg", "more/b.jpg", "unlabelled.jpg")
    labels = tmp_path / "labels.csv"
    labels.write_text("my fish.jpg,tench, Tinca tinca\nmore/b.jpg,n01443537\n", encoding="utf-8")
    opened = open_image_folder(root, load_imagenet_1k(), 1000, labels)
    assert [(s.path.name, s.label) for s in opened.samples] == [("b.jpg", 1), ("my fish.jpg", 0)]
    assert (
        opened.mapping
        == "2 labels from labels.csv, by wnid and class name; 1 image without a label left out."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg 0\nb.jpg 3\n", "fit no class: '3'"),
        ("a.jpg cow\nb.jpg 1\nc.jpg 9\n", "2 labels .* fit no class: '9', 'cow'"),
        ("a.jpg 0\ngone.jpg 1\nlost.jpg 1\n", "2 of 3 files .*'gone.jpg', 'lost.jpg'"),
        ("a.jpg 0\nb.jpg\n", "line 2: 'b.jpg' has no label"),
        ('a.jpg,0\nb.jpg,"guinea\nc.jpg,1\n', "line 2: 'b.jpg,\"guinea' cannot be read"),
        ('a.jpg,"cat" x\n', "line 1: .* cannot be read"),
        ("a.jpg,0\n\nb.jpg," + "x" * 200_000, "line 3: 'b.jpg,x{74}...' cannot be read: field lar"),
        ("a.jpg " + "x" * 200_000, "fit no class: 'x{80}...'"),
        ("a.jpg 0\na.jpg 1\n", "'a.jpg' twice"),
        ("", "holds no labels"),
        ("file,label\n", "holds no labels"),
    ],
)
def test_a_bad_file_of_labels_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    root = write_files(tmp_path / "val", "a.jpg", "b.jpg", "c.jpg")
    labels = tmp_path / "labels.txt"
    labels.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=message):
        open_image_folder(root, PETS, 3, labels)


def test_a_missing_or_ambiguous_file_of_labels_is_an_error(tmp_path: Path) -> None:
    root = write_files(tmp_path / "val", "a.jpg")
    with pytest.raises(BadInput, match="No file of labels"):
        open_image_folder(root, PETS, 3, tmp_path / "none.csv")
    (tmp_path / "l.csv").write_text("a.jpg,crane\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"'crane' fits several classes"):
        open_image_folder(root, load_imagenet_1k(), 1000, tmp_path / "l.csv")


@pytest.mark.parametrize("option", ["labels", "class names"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("folder", "is not a file"),
        ("pipe", "is not a file"),
        ("link to itself", "No file of"),
        ("too large", "has more than 1 MiB"),
        ("UTF-16", "not text in UTF-8: byte 0 is 0xff"),
    ],
)
def test_a_file_of_names_or_labels_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, kind: str, message: str
) -> None:
    for module, limit in ((class_names, "MAX_NAMES_BYTES"), (labels_file, "MAX_LABELS_BYTES")):
        monkeypatch.setattr(module, limit, 1 << 20)
    root, path = write_files(tmp_path / "val", "a.jpg"), tmp_path / "names"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to itself":
        path.symlink_to(path)
    else:
        path.write_bytes(b"a.jpg 0\n" * 200_000 if kind == "too large" else "a.jpg 0".encode(kind))
    with pytest.raises(BadInput, match=message):
        if option == "labels":
            open_image_folder(root, PETS, 3, path)
        else:
            class_names.read_class_names(path)


def make_samples(sizes: dict[int, int], root: str = "/data/val") -> list[Sample]:
    return [
        Sample(Path(f"{root}/{label}/{i:04d}.jpg"), label)
        for label, n in sizes.items()
        for i in range(n)
    ]


def names_of(samples: Sequence[Sample], root: str = "/data/val") -> set[str]:
    return {s.path.relative_to(root).as_posix() for s in samples}


def test_a_sample_is_balanced_as_far_as_the_classes_go() -> None:
    samples = make_samples({0: 100, 1: 2, 2: 50, 3: 50})
    counts = Counter(s.label for s in draw_stratified_sample(samples, 40, seed=0))
    assert counts[1] == 2
    assert sorted(counts[label] for label in (0, 2, 3)) == [12, 13, 13]


def test_fewer_images_than_classes_takes_different_classes() -> None:
    drawn = draw_stratified_sample(make_samples(dict.fromkeys(range(50), 10)), 20, seed=3)
    assert len({s.label for s in drawn}) == 20


def test_a_sample_depends_on_the_seed_but_not_on_order_or_place() -> None:
    sizes = dict.fromkeys(range(5), 40)
    samples = make_samples(sizes)
    drawn = draw_stratified_sample(samples, 30, seed=0)
    assert names_of(draw_stratified_sample(samples[::-1], 30, seed=0)) == names_of(drawn)
    moved = draw_stratified_sample(make_samples(sizes, "elsewhere"), 30, seed=0)
    assert names_of(moved, "elsewhere") == names_of(drawn)
    assert names_of(draw_stratified_sample(samples, 30, seed=1)) != names_of(drawn)
    assert list(drawn) == [s for s in samples if s in set(drawn)]  # in the order given


def test_a_larger_sample_holds_the_smaller_one() -> None:
    samples = make_samples({0: 30, 1: 7, 2: 19})
    smaller: set[str] = set()
    for limit in (1, 5, 17, 40, 56):
        drawn = names_of(draw_stratified_sample(samples, limit, seed=5))
        assert len(drawn) == limit
        assert smaller <= drawn
        smaller = drawn


def test_files_of_one_name_in_nested_folders_are_told_apart() -> None:
    samples = [Sample(Path(f"/v/0/{part}/a.jpg"), 0) for part in "pqrst"]
    drawn = draw_stratified_sample(samples, 2, seed=0)
    assert len(set(drawn)) == 2
    assert set(draw_stratified_sample(samples[::-1], 2, seed=0)) == set(drawn)


@pytest.mark.parametrize("limit", [None, 12, 1000])
def test_no_limit_or_one_above_the_size_gives_everything(limit: int | None) -> None:
    samples = make_samples({0: 10, 1: 2})
    assert draw_stratified_sample(samples, limit, seed=0) == tuple(samples)


def test_a_limit_below_one_is_an_error() -> None:
    with pytest.raises(BadInput, match="limit of 0"):
        draw_stratified_sample(make_samples({0: 3}), 0, seed=0)


def test_content_hashes_follow_the_content_and_report_progress(tmp_path: Path) -> None:
    write_files(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "c.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    done: list[tuple[int, int]] = []
    paths = [tmp_path / n for n in ("a.jpg", "b.jpg", "c.jpg")]
    a, b, c = hash_contents(paths, threads=2, progress=lambda *p: done.append(p))
    assert a == c != b
    assert done == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(BadInput, match=r"gone\.jpg cannot be read"):
        hash_contents([tmp_path / "gone.jpg"], threads=1)
