"""Memory of this process: when it ended, what stays with it while a model is trained, what goes
back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_TOLD = ("can't allocate memory", "out of memory", "ALLOC_FAILED", "bad_alloc")
"""By torch on a CPU, MPS, cuBLAS and C++, in a RuntimeError."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's numbers, as glibc's malloc.h has them
_MOST = 2**31 - 1
_USUAL = 2**25  # where glibc's own threshold, which moves, stops; older ones take no more


def is_out_of_memory(error: Exception) -> bool:
    """A GPU's, or an allocation that the machine refuses outright."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _TOLD)


def give_back() -> None:
    """After something large was freed. The C library keeps small pieces in a heap for each thread,
    and each model has a thread: after many models these heaps are large and empty."""
    gc.collect()
    if library := _glibc():
        library.malloc_trim(0)
    torch: Any = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """While a model is trained on a CPU, what a step frees stays with the process for the next one;
    at the end what is free goes back. Where the C library is not glibc nothing changes.

    Large pieces would else be given back at once and asked for anew, and the system clears each
    page before it gives it: 4 to 20% of a training step (benchmarks/RESULTS.md).
    """
    library = _glibc() if device.type == "cpu" else None
    if not library:
        yield
        return
    if not library.mallopt(_MMAP_THRESHOLD, _MOST):
        library.mallopt(_MMAP_THRESHOLD, _USUAL)
    library.mallopt(_TRIM_THRESHOLD, _MOST)
    try:
        yield
    finally:
        library.mallopt(_MMAP_THRESHOLD, _USUAL)
        library.mallopt(_TRIM_THRESHOLD, 2 * _USUAL)
        library.malloc_trim(0)


@cache
def _glibc() -> Any:
    """The C library where it is glibc; None elsewhere."""
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
