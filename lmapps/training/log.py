"""A run's log.jsonl -> its entries, of which each number is one, whoever wrote them.

A line every few steps and at each evaluation, as `loop.py` writes them. A checkpoint that was
brought here has a log too, which may hold anything.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from lmapps.small_file import parsed

Entry = dict[str, Any]

MOST = 16_000_000
"""Bytes that are read at once: a hundred thousand lines. Of a longer log it is the end."""
LARGEST = 1e18
"""Of a step, a number of tokens or seconds: a larger one cannot be drawn, or be told."""


class Log:
    """A log that is read on from where it was read to."""

    def __init__(self) -> None:
        self._inode = self._read = 0
        self._entries: list[Entry] = []

    def read(self, file: Path) -> list[Entry]:
        try:
            if not file.is_file():  # to open a pipe may take for ever
                return []
            with file.open("rb") as stream:
                stat = os.fstat(stream.fileno())
                if stat.st_ino != self._inode or stat.st_size < self._read:  # it was rewound
                    self._inode, self._read, self._entries = stat.st_ino, 0, []
                start = stream.seek(max(self._read, stat.st_size - MOST))
                new = stream.read(MOST)
        except OSError:
            return []
        whole = new[: new.rfind(b"\n") + 1]  # the last line may be half written
        self._read = start + len(whole)
        new_entries = (entry for _, entry in lines_of(io.BytesIO(whole)))
        self._entries = [*self._entries, *new_entries]
        return self._entries


def lines_of(stream: IO[bytes]) -> Iterator[tuple[bytes, Entry]]:
    """Each line that is an entry, and the entry."""
    for line in iter(lambda: stream.readline(MOST), b""):
        try:
            entry = entry_of(parsed(line))
        except ValueError:  # cut off by a kill
            continue
        if entry is not None:
            yield line.rstrip(b"\n") + b"\n", entry


def entry_of(stored: Any) -> Entry | None:
    """What there is to read of a line, without what is of another type; None where it is none."""
    if not isinstance(stored, dict) or not _is_number(stored.get("step")):
        return None
    entry = {name: value for name, value in stored.items() if _fits(name, value)}
    for name, fits in _INNER.items():
        inner = stored.get(name)
        if isinstance(inner, dict):
            entry[name] = {key: value for key, value in inner.items() if fits(value)}
    if "validation" in entry and not {"loss", "accuracy"} <= entry["validation"].keys():
        del entry["validation"]
    if "loss" in entry and not {"tokens", "seconds"} <= entry.keys():
        return None
    return entry


def _fits(name: str, value: Any) -> bool:
    if name in ("loss", "gradient_norm"):
        return _is_score(value)
    if name in _INNER:
        return False
    return isinstance(value, bool) or _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LARGEST


def _is_score(value: Any) -> bool:
    """A number that may be below nought, or none: a loss that went wrong is shown as it is."""
    if isinstance(value, float) and not math.isfinite(value):
        return True
    return type(value) in (int, float) and abs(value) <= LARGEST


_INNER: Mapping[str, Callable[[Any], bool]] = {
    "validation": _is_score,
    "metrics": _is_score,
    "samples": lambda value: isinstance(value, str),
}
