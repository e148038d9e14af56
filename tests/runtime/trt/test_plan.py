from __future__ import annotations

import pytest

from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.gpus import Gpu
from hvt_deploy.core.types import Skipped
from hvt_deploy.runtime.tensorrt.flavours import (
    FlavourInfo,
    available_flavours,
    format_engine_tag,
    known_capabilities,
    open_flavour,
)
from hvt_deploy.runtime.tensorrt.plan import (
    Profile,
    choose_capabilities,
    choose_flavour,
    name_engine_file,
    parse_capabilities,
    parse_compute_capability,
    parse_profile,
)

TRT = FlavourInfo("tensorrt", "10.13.3.9")
RTX = FlavourInfo("tensorrt_rtx", "1.7.1.116")
NO_TRT = Skipped("TensorRT", "not installed")
NO_RTX = Skipped("TensorRT-RTX", "not installed")
H100 = Gpu("NVIDIA H100 80GB HBM3", "9.0", 81079, "13.0")
L4 = Gpu("NVIDIA L4", "8.9", 22478, "13.0")
ORIN = Gpu("Orin", "8.7", 7620, "12.6")


def test_profile_is_read() -> None:
    assert parse_profile("1, 8,32") == Profile(1, 8, 32)
    assert str(Profile(1, 8, 32)) == "1,8,32"


@pytest.mark.parametrize(
    "text", ["8", "1,8", "1,8,32,64", "a,b,c", "0,1,2", "4,2,8", "1,8,4", "-1,2,3", "1,8,", ""]
)
def test_bad_profile_says_what_is_expected(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_profile(text)
    assert "MIN" in caught.value.message
    assert "--profile 1,8,32" in caught.value.hint


def test_profile_of_a_config_is_checked_too() -> None:
    with pytest.raises(BadInput, match="not in order"):
        Profile(8, 1, 32)


@pytest.mark.parametrize(
    ("text", "expected"), [("8.6", "8.6"), ("86", "8.6"), ("SM89", "8.9"), ("sm_120", "12.0")]
)
def test_compute_capability_is_read(text: str, expected: str) -> None:
    assert parse_compute_capability(text) == expected


@pytest.mark.parametrize("text", ["ampere", "8", "8.60", ""])
def test_bad_compute_capability(text: str) -> None:
    with pytest.raises(BadInput, match="not a compute capability"):
        parse_compute_capability(text)


@pytest.mark.parametrize(
    ("asked", "gpu", "available", "expected"),
    [
        ("auto", True, (TRT, RTX), TRT),
        ("auto", True, (NO_TRT, RTX), RTX),
        ("auto", False, (TRT, RTX), RTX),
        ("auto", False, (NO_TRT, RTX), RTX),
        ("rtx", True, (TRT, RTX), RTX),
        ("tensorrt", True, (TRT, RTX), TRT),
    ],
)
def test_flavour_that_can_build_here_is_chosen(asked, gpu, available, expected) -> None:
    assert choose_flavour(asked, gpu, available) == expected


@pytest.mark.parametrize(("available", "expected"), [((TRT, RTX), RTX), ((TRT, NO_RTX), TRT)])
def test_for_other_gpus_than_this_machines_rtx_builds(available, expected) -> None:
    assert choose_flavour("auto", True, available, for_other_gpus=True) == expected


@pytest.mark.parametrize(
    ("asked", "gpu", "available", "message", "hint"),
    [
        ("tensorrt", False, (TRT, RTX), "no NVIDIA GPU", "--flavour rtx"),
        ("auto", False, (TRT, NO_RTX), "no NVIDIA GPU", "hvt-deploy[rtx]"),
        (
            "auto",
            False,
            (NO_TRT, NO_RTX),
            "TensorRT-RTX, which builds engines without one",
            "hvt-deploy[rtx]",
        ),
        ("auto", True, (NO_TRT, NO_RTX), "Neither", "hvt-deploy[tensorrt]"),
        ("tensorrt", True, (NO_TRT, RTX), "not installed", "hvt-deploy[tensorrt]"),
        ("rtx", False, (TRT, NO_RTX), "not installed", "hvt-deploy[rtx]"),
    ],
)
def test_flavour_that_cannot_build_here_says_what_is_missing(
    *, asked, gpu, available, message, hint, monkeypatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(MissingEnvironment) as caught:
        choose_flavour(asked, gpu, available)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("kernel", "source"), [("5.15.148-tegra", "JetPack"), ("6.8.0-1021-nvidia-64k", "container")]
)
def test_on_aarch64_tensorrt_comes_with_jetpack_or_nvidias_container(
    kernel, source, monkeypatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr("platform.release", lambda: kernel)
    with pytest.raises(MissingEnvironment) as caught:
        choose_flavour("auto", True, (NO_TRT, NO_RTX))
    assert source in caught.value.hint
    assert ("Jetson" in caught.value.hint) == (source == "JetPack")
    assert "pip install" not in caught.value.hint


def test_what_is_installed_here_is_found() -> None:
    found = {f.name: f for f in available_flavours() if isinstance(f, FlavourInfo)}
    assert found["tensorrt_rtx"] == open_flavour("tensorrt_rtx").info


def test_library_that_is_not_installed(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert all(isinstance(f, Skipped) and "pip install" in f.why for f in available_flavours())


KNOWN = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


@pytest.mark.parametrize(
    ("flavour", "gpus", "named", "expected"),
    [
        ("tensorrt", [ORIN], (), ("8.7",)),
        ("tensorrt", [ORIN], ("8.7",), ("8.7",)),
        ("tensorrt_rtx", [L4], (), ("8.9",)),
        ("tensorrt_rtx", [L4], ("8.6",), ("8.6",)),
        ("tensorrt_rtx", [L4], ("8.6", "8.9"), ("8.6", "8.9")),
        ("tensorrt_rtx", [H100], (), ("8.6",)),
        ("tensorrt_rtx", [H100], ("9.0",), ("9.0",)),  # the builder refuses it, with its reason
        ("tensorrt_rtx", [], (), ("8.6",)),
        ("tensorrt_rtx", [], ("12.0",), ("12.0",)),
    ],
)
def test_named_capabilities_are_built_for_else_the_gpus_if_the_library_knows_it(
    flavour, gpus, named, expected
) -> None:
    assert choose_capabilities(flavour, gpus, named, KNOWN) == expected


def test_tensorrt_does_not_build_for_another_gpu() -> None:
    with pytest.raises(BadInput) as caught:
        choose_capabilities("tensorrt", [ORIN, L4], ("8.9",), ())
    assert "the Orin here has compute capability 8.7, not 8.9" in caught.value.message
    assert "--flavour rtx" in caught.value.hint


def test_capabilities_are_read_and_must_differ() -> None:
    assert parse_capabilities(["8.6", "sm89"]) == ("8.6", "8.9")
    with pytest.raises(BadInput, match="different compute capabilities"):
        parse_capabilities(["8.6", "86"])


def test_capabilities_that_rtx_knows_are_those_of_the_installed_library() -> None:
    assert known_capabilities("tensorrt_rtx") == KNOWN
    assert known_capabilities("tensorrt") == ()


@pytest.mark.parametrize(
    ("flavour", "capabilities", "profiles", "name"),
    [
        (RTX, ("8.6",), [(1, 8, 32)], "fdvit_b.int8.rtx-sm86.engine"),
        (RTX, ("8.6", "12.0"), [], "fdvit_b.int8.rtx-sm86-sm120.engine"),
        (TRT, ("8.7",), [(1, 1, 1)], "fdvit_b.int8.trt10.13-sm87-b1-1-1.engine"),
        (TRT, ("8.7",), [(1, 1, 1), (2, 8, 8)], "fdvit_b.int8.trt10.13-sm87-b1-1-1-b2-8-8.engine"),
    ],
)
def test_file_name_says_where_an_engine_runs_and_with_which_profiles(
    flavour, capabilities, profiles, name
) -> None:
    tag = format_engine_tag(flavour, capabilities, profiles)
    assert name_engine_file("fdvit_b", "int8", tag) == name


def test_names_of_engines_with_many_profiles_are_short_and_differ() -> None:
    many = [[(size, size, size) for size in range(first, 200)] for first in (1, 2)]
    tags = {format_engine_tag(RTX, ("8.6",), profiles) for profiles in many}
    assert len(tags) == 2
    assert max(map(len, tags)) < 50
