"""Files as the official training programs write them, with weights of the rule."""

from __future__ import annotations

import argparse
import sys
import types
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from golden.official_facts import read_facts

from hvt_deploy.models.golden_check import draw_parameter


def official_state(model: str, salt: str) -> dict[str, torch.Tensor]:
    """The official state dict: aliases twice, counters 0, computed buffers of garbage that shows
    where it is used.
    """
    recorded = read_facts(model)
    state: dict[str, torch.Tensor] = {}
    for key, shape in recorded["state_dict"].items():
        kind = recorded["kinds"].get(key, "param")
        if kind == "persistent-buffer-computed":
            state[key] = torch.full((1,), -1 if key.endswith("index") else torch.nan).expand(shape)
        elif key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
        else:
            state[key] = torch.from_numpy(
                draw_parameter(salt, recorded["aliases"].get(key, key), tuple(shape))
            )
    return state


def official_shapes(model: str) -> dict[str, torch.Tensor]:
    """An official state dict of zeros that takes no room, in memory or in a file."""
    return {
        key: torch.zeros(()).expand(shape) for key, shape in read_facts(model)["state_dict"].items()
    }


def save_official(path: Path, family: str, state: dict[str, torch.Tensor]) -> None:
    """Write `state` in the family's official container."""
    first = next(key for key, tensor in state.items() if tensor.ndim > 1)
    optimizer = {
        "state": {0: {"step": 3, "exp_avg": torch.zeros_like(state[first])}},
        "param_groups": [{"lr": 1e-3}],
    }
    args = argparse.Namespace(lr=1e-3, model=family, output_dir="out", opt_betas=None)
    if family == "faster_vit":
        torch.save(
            {
                "epoch": 299,
                "arch": "faster_vit",
                "state_dict": {f"module.{key}": tensor for key, tensor in state.items()},
                "optimizer": optimizer,
                "version": 2,
                "args": args,
                "amp_scaler": {"scale": 65536.0, "_growth_tracker": 7},
                "state_dict_ema": {
                    key: torch.zeros(()).expand(tensor.shape) for key, tensor in state.items()
                },
                "metric": 82.1,
            },
            path,
        )
    elif family == "dfvt":
        with yacs_node() as node:
            config = node(MODEL=node(NAME="dfvt", DEPTHS=[1, 1, 2, 1]), AMP_OPT_LEVEL="O1")
            config.__dict__["__immutable__"] = True
            content = {
                "model": state,
                "optimizer": optimizer,
                "lr_scheduler": {"last_epoch": 3},
                "epoch": 299,
            }
            torch.save(
                {**content, "max_accuracy": 73.0, "config": config, "amp": {"loss_scaler0": {}}},
                path,
            )
    else:
        content = {
            "model": state,
            "optimizer": optimizer,
            "lr_scheduler": {"last_epoch": 3},
            "epoch": 299,
        }
        torch.save({**content, "scaler": {"scale": 65536.0}, "args": args}, path)


@contextmanager
def yacs_node():
    """A class that pickles as yacs' CfgNode does, where yacs need not be installed."""
    node = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    module = types.ModuleType("yacs.config")
    module.CfgNode = node
    with mock.patch.dict(sys.modules, {"yacs": types.ModuleType("yacs"), "yacs.config": module}):
        yield node
