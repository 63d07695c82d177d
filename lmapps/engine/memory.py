"""Memory that this process has freed -> given back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from functools import cache
from typing import Any


def give_back() -> None:
    """After something large was freed. The C library keeps small pieces in a heap for each thread,
    and each model has a thread: after many models these heaps are large and empty."""
    gc.collect()
    if trim := _trim():
        trim(0)


@cache
def _trim() -> Any:
    """glibc's `malloc_trim`; None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
