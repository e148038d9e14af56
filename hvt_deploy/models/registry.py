"""Every model by name. Imports no torch: a family's code is imported when a model is made."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sized
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from hvt_deploy.core.environment import require
from hvt_deploy.core.errors import BadInput, MissingEnvironment, unknown_name
from hvt_deploy.core.model_options import DEFAULT_OPTIONS, ModelOptions, is_onnx_file
from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.models.dfvt import spec as dfvt
from hvt_deploy.models.factory import spec as factory
from hvt_deploy.models.faster_vit import spec as faster_vit
from hvt_deploy.models.fdvit import spec as fdvit
from hvt_deploy.models.hvt import spec as hvt
from hvt_deploy.models.spec import Checkpoint, ModelSpec

if TYPE_CHECKING:
    from torch import nn

    from hvt_deploy.models.family import Family


def _open_fdvit() -> Family:
    from hvt_deploy.models.fdvit.family import FDVIT_FAMILY

    return FDVIT_FAMILY


def _open_faster_vit() -> Family:
    from hvt_deploy.models.faster_vit.family import FASTER_VIT_FAMILY

    return FASTER_VIT_FAMILY


def _open_dfvt() -> Family:
    from hvt_deploy.models.dfvt.family import DFVT_FAMILY

    return DFVT_FAMILY


def _open_hvt() -> Family:
    from hvt_deploy.models.hvt.family import HVT_FAMILY

    return HVT_FAMILY


def _open_timm() -> Family:
    from hvt_deploy.models.timm.family import TIMM_FAMILY

    return TIMM_FAMILY


def _open_factory() -> Family:
    from hvt_deploy.models.factory.family import FACTORY_FAMILY

    return FACTORY_FAMILY


_SPECS: dict[str, ModelSpec] = {
    **fdvit.FDVIT_SPECS,
    **faster_vit.FASTER_VIT_SPECS,
    **dfvt.DFVT_SPECS,
    **hvt.HVT_SPECS,
}
_FAMILIES: dict[str, Callable[[], Family]] = {
    "fdvit": _open_fdvit,
    "faster_vit": _open_faster_vit,
    "dfvt": _open_dfvt,
    "hvt": _open_hvt,
    "timm": _open_timm,
    "factory": _open_factory,
}


class _Sized(Protocol):
    """The hyper-parameter that every architecture here has."""

    image_size: int | tuple[int, int]


class _Specified(Protocol):
    """The attribute that every model made here has."""

    hvt_spec: ModelSpec


def list_specs() -> list[ModelSpec]:
    """Every named model, families together, in the order of their papers' tables."""
    return list(_SPECS.values())


def get_spec(
    name: str,
    image_size: tuple[int, int] | None = None,
    options: ModelOptions = DEFAULT_OPTIONS,
    num_classes: int | None = None,
) -> ModelSpec:
    """The specification of a model.

    `name` is one of `list_specs`, `timm:NAME`, the path of an HVT's configuration file (JSON;
    `hvt` where `options.hvt` holds the file's values), or a user's `module:factory`: unless
    `options.factory` knows it, the factory is run in a child process, with `num_classes` where that
    is given. It may also be the path of an ONNX file, which is read unless `options.onnx_file`
    knows it.

    Raises BadInput for an unknown name, with the nearest ones, and for a size or options the model
    does not take; for a factory as `spec_of_factory` does.
    """
    if name.startswith("timm:"):
        from hvt_deploy.models.timm import spec as timm

        spec = timm.spec_of_timm(name, image_size)
    elif is_onnx_file(name):
        from hvt_deploy.models.onnx_file import spec as onnx_file

        spec = onnx_file.spec_of_onnx(name, image_size, options.onnx_file)
    elif factory.is_factory(name):
        spec = factory.spec_of_factory(name, image_size, options.factory, num_classes)
    elif name.endswith(".json"):
        spec = hvt.spec_of_configuration(hvt.read_configuration(Path(name)))
    elif name == "hvt" and options.hvt is not None:
        spec = hvt.spec_of_configuration(options.hvt)
    elif name in _SPECS:
        spec = _with_own_sizes(_SPECS[name], options)
    else:
        raise _unknown_model(name)
    if spec.resizable and spec.family == "faster_vit":
        resized = faster_vit.configure(spec, image_size, options)
        own = replace(resized.options, architecture=options.architecture)
        return replace(resized, options=own)
    _refuse_options(spec, image_size, options)
    return spec


def _with_own_sizes(spec: ModelSpec, options: ModelOptions) -> ModelSpec:
    """The spec with the hyper-parameters of `options` in place of its own, if there are any; nobody
    published weights of it then. Raises BadInput for unknown ones and for values of another type.
    """
    if options.architecture is None:
        return spec
    where = f"options.architecture of {spec.name}"
    values = {**to_plain(spec.architecture), **to_plain(options.architecture)}
    architecture = from_plain(type(spec.architecture), values, where)
    plain = cast("dict[str, object]", vars(architecture))
    lists = {k: len(cast("Sized", v)) for k, v in plain.items() if isinstance(v, tuple)}
    lists.pop("image_size", None)
    if len(set(lists.values())) > 1:
        counts = ", ".join(f"{key} {count}" for key, count in lists.items())
        raise BadInput(
            f"{where}: lists of one length were expected, one value per stage: {counts}."
        )
    size = cast("_Sized", architecture).image_size
    sides = (size, size) if isinstance(size, int) else size
    return replace(
        spec,
        architecture=architecture,
        preprocessing=replace(spec.preprocessing, image_size=sides),
        published=None,
        measured=None,
        checkpoint=Checkpoint(),
        weights_licence="not stated",
        options=ModelOptions(architecture=options.architecture),
    )


def _unknown_model(name: str) -> BadInput:
    with suppress(MissingEnvironment):
        from hvt_deploy.models.timm.spec import PREFIX, is_of_timm

        if is_of_timm(name):
            return BadInput(
                f"Unknown model '{name}'.", f"timm has one: hvt-deploy export {PREFIX}{name}"
            )
    return unknown_name("model", name, [*_SPECS, "timm:NAME", "module:factory"])


def _refuse_options(
    spec: ModelSpec, image_size: tuple[int, int] | None, options: ModelOptions
) -> None:
    if image_size not in (None, spec.image_size):
        size = "x".join(map(str, spec.image_size))
        raise BadInput(
            f"{spec.name} takes {size} images only.",
            "Any size: faster_vit_0_any_res and its family.",
        )
    if options.window_size is not None or options.carrier_token_size is not None:
        raise BadInput(
            f"{spec.name} has no window or carrier-token size to set.",
            "Only faster_vit_*_any_res have.",
        )


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    image_size: tuple[int, int] | None = None,
    window_size: tuple[int, ...] | None = None,
    carrier_token_size: int | None = None,
) -> nn.Module:
    """The reference form of a model in eval mode with PyTorch's random weights.

    It maps images (B, 3, H, W) to logits (B, num_classes); with `num_classes=0` the head is left
    out and the result is the pooled features. The last three are for any-resolution FasterViT.
    Raises BadInput for an unknown name, options it does not take or a negative number of classes,
    MissingEnvironment without PyTorch.
    """
    return create_from(
        get_spec(name, image_size, ModelOptions(window_size, carrier_token_size)), num_classes
    )


def create_from(spec: ModelSpec, num_classes: int | None = None) -> nn.Module:
    """`create_model` for a spec that is at hand."""
    classes = spec.num_classes if num_classes is None else num_classes
    if classes < 0:
        raise BadInput(f"num_classes is {classes}, it must be 0 or more.")
    try:
        model = open_family(spec.family).build(spec, classes).eval()
    except (ValueError, ArithmeticError, RuntimeError, AssertionError, LookupError) as error:
        if spec.options.architecture is None:
            raise
        raise BadInput(
            f"These sizes make no {spec.family}: {str(error).strip().partition(chr(10))[0]}.",
            f"Compare options.architecture with: hvt-deploy config {spec.name}",
        ) from error
    cast("_Specified", model).hvt_spec = spec
    return model


def to_deployed(model: nn.Module) -> nn.Module:
    """The deployed form of a model made by `create_model`: the same function, rewritten for
    inference.

    The argument is left as it was, and the result does not depend on the number of threads. Raises
    BadInput for any other module.
    """
    family = family_of(model)
    with _one_thread():
        deployed = family.deploy(model)
    cast("_Specified", deployed).hvt_spec = spec_of(model)
    return deployed


@contextmanager
def _one_thread() -> Generator[None]:
    """PyTorch computes on one thread inside: sums of several have another order, other bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def family_of(model: nn.Module) -> Family:
    """The family whose code made `model`. Raises BadInput for a module from elsewhere."""
    return open_family(spec_of(model).family)


def spec_of(model: nn.Module) -> ModelSpec:
    """The spec that `model` was made from. Raises BadInput for a module from elsewhere."""
    spec = getattr(model, "hvt_spec", None)
    if not isinstance(spec, ModelSpec):
        raise BadInput(
            f"{type(model).__name__} is not a model of this package.",
            "Make it with create_model(NAME).",
        )
    return spec


def open_family(family: str) -> Family:
    """The code of a family, by its name in a spec. Raises MissingEnvironment without PyTorch."""
    require("torch", extra="export")
    return _FAMILIES[family]()
