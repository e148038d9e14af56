"""The values that a pickle would make, counted without making them."""

from __future__ import annotations

import pickletools
from typing import IO

# A checkpoint of ten thousand tensors has a million.
MOST_VALUES = 100_000_000
_PUT = {"PUT", "BINPUT", "LONG_BINPUT"}
_GET = {"GET", "BINGET", "LONG_BINGET"}
_GROW = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
_OLD_FORMAT_PICKLES = 5


def has_too_many_values(stream: IO[bytes]) -> bool:
    """Whether a value in a pickle, written out, would have more than `MOST_VALUES`.

    A value that is shared counts wherever it is: 200 bytes can be tuples of the tuple before that
    stand for 2^60, which hashing or printing one walks through. What is no pickle has none.
    """
    try:
        for _ in range(_OLD_FORMAT_PICKLES):  # of PyTorch's format before 1.6; the zip format's one
            if _exceeds(stream):
                return True
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError, MemoryError):
        pass
    return False


def _exceeds(stream: IO[bytes]) -> bool:
    stack: list[list[int] | None] = []  # the size of each value in a box, None for a mark
    memo: dict[object, list[int]] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name in _PUT or name == "MEMOIZE":
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1] or [0]
        elif name in _GET:
            stack.append(memo[argument])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "MARK":
            stack.append(None)
        else:
            size = _pop(stack, opcode, keep=name in _GROW)
            if name in _GROW:
                (stack[-1] or [0])[0] += size
            elif opcode.stack_after:
                stack.append([1 + size])
            if size > MOST_VALUES:
                return True
    return False


def _pop(stack: list[list[int] | None], opcode: pickletools.OpcodeInfo, *, keep: bool) -> int:
    """Take what an opcode takes, but for the container that it fills; the sizes together."""
    takes, size = list(opcode.stack_before), 0
    if pickletools.markobject in takes:
        while (value := stack.pop()) is not None:
            size += value[0]
        takes = takes[: takes.index(pickletools.markobject)]
    for _ in takes[1:] if keep else takes:
        size += (stack.pop() or [0])[0]
    return size
