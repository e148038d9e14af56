from __future__ import annotations

import json
from pathlib import Path

import pytest
from timm.data import ImageNetInfo

from hvt_deploy.core.errors import BadInput
from hvt_deploy.data.class_names import (
    ClassNames,
    Match,
    default_class_names,
    find_stated_names,
    load_imagenet_1k,
    number_classes,
    read_class_names,
)


def test_imagenet_names_are_in_the_order_timm_uses() -> None:
    names, info = load_imagenet_1k(), ImageNetInfo("imagenet-1k")
    assert names.wnids is not None
    assert list(names.wnids) == info.label_names()
    assert list(names.wnids) == sorted(set(names.wnids))
    assert list(names.names) == info.label_descriptions(detailed=False)
    assert names.short(2) == "great white shark"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n01440764", Match("wnid", (0,))),
        ("N01440764", Match("wnid", (0,))),
        ("tench", Match("class name", (0,))),
        ("Tinca_tinca", Match("class name", (0,))),
        ("tench, Tinca tinca", Match("class name", (0,))),
        ("great_white_shark", Match("class name", (2,))),
        ("GREAT-White shark", Match("class name", (2,))),
        ("man-eater", Match("class name", (2,))),
        ("0", Match("class number", (0,))),
        ("007", Match("class number", (7,))),
        ("999", Match("class number", (999,))),
        ("1000", None),
        ("-1", None),
        ("²", None),
        ("n99999999", None),
        ("no such thing", None),
        ("", None),
    ],
)
def test_a_class_is_found_by_wnid_name_synonym_or_number(text: str, expected: Match | None) -> None:
    assert load_imagenet_1k().find(text) == expected


def test_names_that_imagenet_uses_twice_are_ambiguous_and_never_guessed() -> None:
    names = load_imagenet_1k()
    crane = names.find("crane")
    assert crane is not None
    assert [names.wnids[i] for i in crane.classes if names.wnids] == ["n02012849", "n03126707"]
    with pytest.raises(BadInput, match=r"'crane'.*n02012849.*n03126707"):
        names.refuse_ambiguous("folder", names.find_all(["tench", "crane"])[0])
    # A synonym of two classes is ambiguous too; the first name of a class beats a synonym of
    # another.
    assert names.find("grass_snake") == Match("class name", (55, 57))
    assert names.find("partridge") == Match("class name", (86,))


def test_every_imagenet_class_is_found_by_wnid_number_and_full_name() -> None:
    names = load_imagenet_1k()
    assert names.wnids is not None
    for i, (wnid, name) in enumerate(zip(names.wnids, names.names, strict=True)):
        assert names.find(wnid) == Match("wnid", (i,))
        assert names.find(str(i)) == Match("class number", (i,))
        by_name = names.find(name)
        assert by_name is not None
        assert i in by_name.classes


def test_spelling_decides_between_names_that_differ_only_in_case() -> None:
    names = ClassNames(("A", "a", "b"))
    assert names.find("a") == Match("class name", (1,))
    assert names.find("A") == Match("class name", (0,))
    assert names.find("B") == Match("class name", (2,))


def test_names_come_before_numbers() -> None:
    assert ClassNames(("7", "5", "0")).find("0") == Match("class name", (2,))


def test_symbols_as_names_do_not_collapse() -> None:
    names = ClassNames(("+", "-", "_", ","))
    assert [names.find(n) for n in names.names] == [Match("class name", (i,)) for i in range(4)]


def test_numbered_names() -> None:
    assert number_classes(3).names == ("0", "1", "2")
    assert len(number_classes(3)) == 3


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("class_indices.json", '{"0": "daisy", "1": "rose", "2": "tulip"}'),
        ("class_indices.json", '{"2": "tulip", "0": "daisy", "1": "rose"}'),
        ("class_indices.json", '{"tulip": 2, "daisy": 0, "rose": 1}'),
        ("classes.JSON", '["daisy", "rose", "tulip"]'),
        ("classes.txt", "daisy\nrose\ntulip\n"),
        ("classes.txt", "\ufeffdaisy\r\nrose\r\ntulip\r\n\r\n"),
    ],
)
def test_every_kind_of_file_gives_the_same_names(tmp_path: Path, file: str, text: str) -> None:
    path = tmp_path / file
    path.write_text(text, encoding="utf-8")
    assert read_class_names(path) == ClassNames(("daisy", "rose", "tulip"))


def test_a_text_file_may_give_wnids(tmp_path: Path) -> None:
    path = tmp_path / "synset_words.txt"
    path.write_text("n01440764 tench, Tinca tinca\nn01443537\n", encoding="utf-8")
    expected = ClassNames(("tench, Tinca tinca", "n01443537"), ("n01440764", "n01443537"))
    assert read_class_names(path) == expected


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("a.json", "{", "not JSON"),
        ("a.json", "3", "expected"),
        ("a.json", "{}", "name for every class"),
        ("a.json", '{"0": 1.5}', "name for every class"),
        ("a.json", '{"0": ["n01440764", "tench"]}', "name for every class"),
        ("a.json", '["daisy", ""]', "name for every class"),
        ("a.json", '{"one": "daisy"}', "expected"),
        ("a.json", '{"1": "daisy", "2": "rose"}', "none has the number 0"),
        ("a.json", '{"daisy": 0, "rose": 0}', "'daisy' and 'rose'"),
        ("a.json", '{"daisy": 0, "rose": -1}', "none has the number 1"),
        ("a.txt", "", "is empty"),
        ("a.txt", "daisy\n\nrose\n", "line 2 is empty"),
    ],
)
def test_a_bad_file_of_names_is_an_error(
    tmp_path: Path, file: str, text: str, message: str
) -> None:
    path = tmp_path / file
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=message):
        read_class_names(path)


def test_a_missing_or_binary_file_of_names_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No file of class names"):
        read_class_names(tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(BadInput, match="not text in UTF-8"):
        read_class_names(tmp_path / "binary.txt")


@pytest.mark.parametrize("file", ["class_indices.json", "classes_indices.json"])
def test_a_models_names_are_the_given_ones_else_those_next_to_the_checkpoint(
    tmp_path: Path, file: str
) -> None:
    checkpoint = tmp_path / "best.pth"
    assert default_class_names(1000) == load_imagenet_1k()
    assert default_class_names(2) == number_classes(2)
    assert find_stated_names(2, checkpoint=checkpoint) is None
    (tmp_path / file).write_text(json.dumps({"0": "cat", "1": "dog"}), encoding="utf-8")
    stated = find_stated_names(2, checkpoint=checkpoint)
    assert (stated.names, stated.source) == (("cat", "dog"), str(tmp_path / file))
    given = tmp_path / "names.txt"
    given.write_text("ox\nhen\n", encoding="utf-8")
    assert find_stated_names(2, given, checkpoint).names == ("ox", "hen")
    with pytest.raises(BadInput, match="names 2 classes, but the model has 3"):
        find_stated_names(3, checkpoint=checkpoint)
