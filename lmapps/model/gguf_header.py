"""The header of a GGUF file -> how many numbers its tensors have; checked before it is believed.

`gguf`'s own reader takes every length for true, and makes a list of as many entries.
"""

from __future__ import annotations

import math
from pathlib import Path

from lmapps.model.header import broken

MAGIC, VERSIONS = b"GGUF", (2, 3)
MAX_HEADER = 100_000_000
"""Bytes, with the vocabulary."""
MAX_ENTRIES = 4_000_000
"""Of all fields and arrays together: a vocabulary of 256,000 has about a million."""
_STRING, _ARRAY = 8, 9
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by the number of its type."""


def numbers_in(file: Path) -> int:
    """Raises `CheckpointError` where the header lies about the file."""
    try:
        with file.open("rb") as stream:
            walk = _Walk(stream.read(MAX_HEADER), file)
        size = file.stat().st_size
    except OSError as error:
        raise broken(file, str(error.strerror or error)) from None
    return walk.header(size)


class _Walk:
    """Goes through a header, and never beyond what was read of it."""

    def __init__(self, data: bytes, file: Path) -> None:
        self._data, self._file, self._at, self._entries = data, file, 0, 0

    def header(self, size: int) -> int:
        version = self._number(4) if self._take(4) == MAGIC else 0
        if version not in VERSIONS:
            raise broken(self._file, "it does not begin as a GGUF file of version 2 or 3")
        tensors, fields = self._number(8), self._number(8)
        self._count(tensors, 24)
        self._count(fields, 12)
        for _ in range(fields):
            self._string()
            self._value(self._number(4))
        return sum(self._tensor(size) for _ in range(tensors))

    def _tensor(self, size: int) -> int:
        name, dimensions = self._string(), self._number(4)
        if dimensions > 8:
            raise broken(self._file, f"{name!r:.80} has {dimensions:,} dimensions")
        shape = [self._number(8) for _ in range(dimensions)]
        kind, place = self._number(4), self._number(8)
        numbers = math.prod(shape)
        if place > size or numbers > 16 * size:  # the smallest kinds have about 1.5 bits a number
            raise broken(self._file, f"{name!r:.80} of shape {shape} and type {kind} is not in it")
        return numbers

    def _value(self, kind: int) -> None:
        if kind == _STRING:
            self._string()
        elif kind == _ARRAY:
            inner, count = self._number(4), self._number(8)
            self._count(count, _WIDTHS.get(inner, 8))
            if inner == _STRING:
                for _ in range(count):
                    self._string()
            else:
                self._take(self._width(inner) * count)
        else:
            self._take(self._width(kind))

    def _width(self, kind: int) -> int:
        if kind not in _WIDTHS:
            raise broken(self._file, f"its header has a value of type {kind}, which is none")
        return _WIDTHS[kind]

    def _count(self, count: int, width: int) -> None:
        """So many entries, each of so many bytes at least, that are still to come."""
        self._entries += count
        if count * width > len(self._data) - self._at or self._entries > MAX_ENTRIES:
            raise broken(self._file, f"its header counts {count:,} entries, which it does not have")

    def _string(self) -> bytes:
        return self._take(self._number(8))

    def _number(self, width: int) -> int:
        return int.from_bytes(self._take(width), "little")

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) < count:
            raise broken(self._file, "its header ends in the middle")
        self._at += count
        return taken
