"""The reason for an error of a runtime, and whether the process can still use the GPU after it.

After some CUDA errors every later call of the process fails as well, whichever library makes it.
"""

from __future__ import annotations

from collections.abc import Iterator

from hvt_deploy.core.errors import HvtDeployError

# Texts that cudaGetErrorString and cuGetErrorString have in common, which every library quotes:
# errors that leave the context unusable (the CUDA runtime's documentation calls them sticky).
_STICKY_ERRORS = (
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "unspecified launch failure",
    "the launch timed out and was terminated",
    "device-side assert triggered",
    "misaligned address",
    "invalid program counter",
    "hardware stack error",
    "operation not supported on global/shared address space",
    "context is destroyed",
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
)


def explain_failure(error: Exception) -> str:
    """Why something failed, in a line; for an error of a library with the name of its class."""
    if isinstance(error, HvtDeployError):
        return f"{error.message} {error.hint}".strip()
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])


def read_first_line(error: Exception) -> str:
    """The first line of an error's text; the name of its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def breaks_cuda(error: BaseException) -> bool:
    """Whether no later CUDA call of this process can succeed: a sticky error, or caused by one."""
    texts = [str(one).lower() for one in _causes(error)]
    return any(sticky in text for sticky in _STICKY_ERRORS for text in texts)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
