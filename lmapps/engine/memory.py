"""Memory: whether an error means that it ended; what was freed is given back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from functools import cache
from typing import Any


def is_out_of_memory(error: Exception) -> bool:
    """A GPU's, or an allocation that the machine refuses outright."""
    import torch

    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def give_back() -> None:
    """After something large was freed. The C library keeps small pieces in a heap for each thread,
    and each model has a thread: after many models these heaps are large and empty."""
    gc.collect()
    if trim := _trim():
        trim(0)
    torch: Any = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@cache
def _trim() -> Any:
    """glibc's `malloc_trim`; None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
