"""Runs a factory: `python -m hvt_deploy.models.factory.network` tries it out in a child."""

from __future__ import annotations

import importlib
import json
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import cast

import torch
from torch import nn

from hvt_deploy.core.errors import BadInput, unknown_name
from hvt_deploy.core.files import hash_file
from hvt_deploy.core.model_options import FactorySource
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.core.worker import answer
from hvt_deploy.models.factory.trial import FactoryTrial

_INSTALLED = {"site-packages", "dist-packages"}
_NOT_THEIRS = (Path(sysconfig.get_path("stdlib")).resolve(), Path(__file__).resolve().parents[2])
_imported: set[str] = set()
_RETURN_LOGITS = "Its forward must take images (N, 3, H, W) and return logits (N, K)."


def make_network(name: str, folder: str, num_classes: int | None) -> nn.Module:
    """What `module:factory` returns, in eval mode, float32, on the CPU.

    The user's code runs, with `folder` first on the path; what it prints goes to stderr. It is
    called with `num_classes` where that is given. Raises BadInput where it raises or returns
    anything else.
    """
    with redirect_stdout(sys.stderr), torch.device("cpu"):
        factory = _find_factory(name, folder)
        arguments = {} if num_classes is None else {"num_classes": num_classes}
        try:
            made = factory(**arguments)
        except (Exception, SystemExit) as error:
            called = f"{name}({', '.join(f'{key}={value}' for key, value in arguments.items())})"
            raise BadInput(f"{called} raised {_describe(error)}.", _where(error)) from error
    if not isinstance(made, nn.Module):
        raise BadInput(f"{name} returned {_show_type(made)}, expected a torch.nn.Module.")
    if any(tensor.is_meta for tensor in made.state_dict().values()):
        raise BadInput(f"{name} has weights without values, of the meta device.", "Fill them.")
    return made.eval().cpu().float()


def _find_factory(name: str, folder: str) -> Callable[..., object]:
    module_name, _, attribute = name.partition(":")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    _forget()
    before = set(sys.modules)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(
            f"{error.name}."
        ):
            raise BadInput(
                f"There is no module {error.name} in {folder} or among the installed packages.",
                f"Run this in the folder of {error.name}, or set PYTHONPATH.",
            ) from None
        raise BadInput(f"Importing {module_name} raised {_describe(error)}.", _where(error)) from (
            error
        )
    _imported.update(name for _, name in _list_users_files() if name not in before)
    factory = cast("object", getattr(module, attribute, None))
    if not callable(factory):
        callables = [key for key, value in vars(module).items() if callable(value)]
        raise unknown_name(f"callable in {module_name}", attribute, callables)
    return factory


def _forget() -> None:
    """Let the files of earlier factories be read again: they may have changed, or others of the
    same names lie in another folder.
    """
    importlib.invalidate_caches()
    for name in _imported:
        sys.modules.pop(name, None)
    _imported.clear()


def _list_users_files() -> Iterator[tuple[Path, str]]:
    """The Python files that were imported and are the user's own, each with its module."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(file).suffix == ".py" and name != "__main__":
            path = Path(file).resolve()
            if _is_users(path):
                yield path, name


def _is_users(path: Path) -> bool:
    """Whether a file is there, and neither installed nor a part of hvt-deploy."""
    installed = _INSTALLED & {*path.parts} or any(map(path.is_relative_to, _NOT_THEIRS))
    return path.is_file() and not installed


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:300]}".rstrip(": ").rstrip(".")


def _where(error: BaseException) -> str:
    """The last line of the user's own code in a traceback."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if _is_users(Path(frame.filename).resolve())
    ]
    return f"{frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line}" if frames else ""


def _show_type(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _show_parts(value: object) -> str:
    """The tensors that a dictionary or a sequence holds: ` of logits (2, 10), aux (2, 4)`."""
    if isinstance(value, Mapping):
        named = cast("Mapping[object, object]", value).items()
    elif isinstance(value, (tuple, list)):
        named = enumerate(cast("Sequence[object]", value))
    else:
        return ""
    shapes = [f"{key} {tuple(part.shape)}" for key, part in named if isinstance(part, torch.Tensor)]
    return f" of {', '.join(shapes)}" if shapes else ""


def _count_classes(model: nn.Module, trial: FactoryTrial) -> int:
    """The columns of the logits of two images."""
    height, width = trial.image_size
    given = f"images (2, 3, {height}, {width})"
    try:
        with torch.inference_mode():
            logits = cast("object", model(torch.zeros(2, 3, height, width)))
    except (Exception, SystemExit) as error:
        raise BadInput(
            f"{trial.name}: the network raised {_describe(error)} for {given}.",
            f"Another size: --image-size HxW. {_where(error)}".strip(),
        ) from error
    if not isinstance(logits, torch.Tensor):
        raise BadInput(
            f"{trial.name}: the network gives {_show_type(logits)}{_show_parts(logits)}, not one "
            "tensor.",
            f"{_RETURN_LOGITS} Let the factory wrap it in a module that returns them alone.",
        )
    if logits.ndim != 2 or len(logits) != 2 or not logits.is_floating_point():
        raise BadInput(
            f"{trial.name}: the network gives {logits.dtype} {tuple(logits.shape)} for {given}.",
            f"{_RETURN_LOGITS} A network that is no classifier cannot be validated here.",
        )
    if logits.shape[1] < 2:
        raise BadInput(
            f"{trial.name}: the network gives {tuple(logits.shape)} for {given}, no choice of a "
            "class.",
            f"{_RETURN_LOGITS} For yes and no, K is 2.",
        )
    return logits.shape[1]


def _find_head(model: nn.Module, classes: int) -> str:
    """The path of the last Linear, if it gives the classes; "" if not."""
    named = cast("Iterator[tuple[str, nn.Module]]", model.named_modules())
    linears = [(path, module) for path, module in named if isinstance(module, nn.Linear)]
    return linears[-1][0] if linears and linears[-1][1].out_features == classes else ""


def _try(trial: FactoryTrial) -> None:
    model = make_network(trial.name, trial.folder, trial.num_classes)
    classes = _count_classes(model, trial)
    if trial.num_classes not in (None, classes):
        raise BadInput(
            f"{trial.name}(num_classes={trial.num_classes}) made a network of {classes} classes."
        )
    own = {str(path): hash_file(path) for path, _ in _list_users_files()}
    source = FactorySource(
        trial.folder, own, classes, trial.num_classes is not None, _find_head(model, classes)
    )
    trial.found.write_text(json.dumps(to_plain(source)), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(answer(FactoryTrial, _try))
