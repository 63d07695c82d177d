"""Tensors that are freed on a CPU -> their memory stays with the process for the next step's.

The C library gives large pieces back to the system at once and asks for them anew, and the system
clears each page before it gives it: 4 to 20% of a training step (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's numbers, as glibc's malloc.h has them
_MOST = 2**31 - 1
_USUAL = 2**27


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """While a model is trained on a CPU; at the end what is free goes back. Where the C library is
    not glibc nothing changes."""
    library: Any = ctypes.CDLL(None) if device.type == "cpu" and os.name == "posix" else None
    if not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _MOST)
    library.mallopt(_TRIM_THRESHOLD, _MOST)
    try:
        yield
    finally:
        library.mallopt(_TRIM_THRESHOLD, _USUAL)
        library.malloc_trim(0)
