"""Checkpoints whose pickles ask for more than there is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from made_checkpoints import (
    Zeros,
    demo_state,
    make_pickle,
    make_zip,
    read_zip,
    save,
    stretch_tensor,
)

NO_CHECKPOINT = "not a complete checkpoint"


def _entries() -> dict[str, bytes]:
    return read_zip(save(demo_state()))


PICKLES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a tensor larger than its storage": (lambda: stretch_tensor(10**6), NO_CHECKPOINT),
    "a tensor that starts before its storage": (
        lambda: stretch_tensor(2, offset=-5),
        NO_CHECKPOINT,
    ),
    "an array of 20 GB without contents": (lambda: save({"model": Zeros()}), NO_CHECKPOINT),
    "a text of 2^60 letters": (lambda: make_pickle(b"\x8d" + b"\0" * 7 + b"\x10"), NO_CHECKPOINT),
    "a long integer of 2 GB": (lambda: make_pickle(b"\x8b\xff\xff\xff\x7f"), NO_CHECKPOINT),
    "a million marks": (lambda: make_pickle(b"(" * 100_000 + b"t"), "holds no weights"),
    "an empty stack": (lambda: make_pickle(b"s"), NO_CHECKPOINT),
    "an unknown byte order": (
        lambda: make_zip({**_entries(), "archive/byteorder": b"odd"}),
        NO_CHECKPOINT,
    ),
    "another byte order": (
        lambda: make_zip({**_entries(), "archive/byteorder": b"big"}),
        "no finite float32|not a complete",
    ),
    "weights within weights": (
        lambda: save({"state_dict": {"model": demo_state()}}),
        "holds no weights",
    ),
    "an empty key": (lambda: save({**demo_state(), "": torch.zeros(1)}), "1 unexpected"),
    "a key of half a character": (
        lambda: save({**demo_state(), "a\udcff": torch.zeros(1)}),
        r"\\udcff",
    ),
    "a GGUF": (lambda: b"GGUF\3\0\0\0" + b"\0" * 100, NO_CHECKPOINT),
}
