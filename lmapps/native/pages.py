"""Memory by the page, straight from the system -> what is never written is never there."""

from __future__ import annotations

import math
import mmap

import torch

_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


def untouched_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros that take memory only once they are written over: of a long context little is used.

    torch.zeros touches every page; what the C library has (`numpy.zeros`) may lie in memory that
    was freed before, and then every page is cleared as well. Raises MemoryError.
    """
    size = math.prod(shape) * dtype.itemsize
    try:
        return torch.frombuffer(mmap.mmap(-1, size, **_PRIVATE), dtype=dtype).view(shape)
    except OSError as error:
        raise MemoryError(f"{size:,} bytes of zeros: {error.strerror}") from None
