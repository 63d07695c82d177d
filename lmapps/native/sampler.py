"""Logits of many rows, and how to sample each -> an id each, in one call of `libstep.so`.

The call holds no lock of Python's. `engine/sampling.py` says what is drawn. Shape legend: B rows,
V vocabulary.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lmapps.native.library import level_name, library
from lmapps.native.threads import Threads


class Row(NamedTuple):
    """How to sample one row of the logits."""

    number: int
    top_k: int
    temperature: float
    top_p: float
    min_p: float
    point: float
    """A random number from 0 up to 1."""
    changed: int
    """So many ids have another logit than the model's."""
    banned: int
    """So many ids cannot come, unless there would be none."""


@cache
def _packing(count: int) -> struct.Struct:
    """So many rows as sample.cpp has them."""
    return struct.Struct("iiddddii" * count)


class Sampler:
    """Draws ids, in float64. Used by one thread. Raises `Unavailable` with the reason.

    threads  share the rows; None = the caller's own has them all
    level    the number of the instruction set among `levels()`; 0 = the best
    """

    def __init__(self, vocab_size: int, threads: Threads | None = None, *, level: int = 0) -> None:
        level_name(level)  # an error where there is none
        self._vocab_size, self._threads, self._level = vocab_size, threads, level
        self._library = library()
        room = self._library.lmapps_room(vocab_size) * (threads.count if threads else 1)
        self._room = np.empty(room)
        self._room_address = self._room.ctypes.data

    def __call__(
        self,
        logits_BV: npt.NDArray[Any],
        rows: Sequence[Row],
        ids: Sequence[int] | npt.NDArray[Any] = (),
        values: Sequence[float] | npt.NDArray[Any] = (),
    ) -> list[int]:
        """The next id of each of these rows, or -1 where the logits allow none or are no numbers.

        ids     of each row the changed ones, then the banned ones; one row behind the other
        values  the logits of the changed ones
        """
        # Little NumPy: each call of it takes about as long as sampling a row of a small vocabulary.
        # The library trusts what it is given, so nothing here may be an assert, which -O takes out.
        if logits_BV.dtype != np.float32 or logits_BV.strides[1] != 4:
            raise ValueError(f"logits in {logits_BV.dtype}, {logits_BV.strides} bytes apart")
        if logits_BV.shape[1] != self._vocab_size:
            raise ValueError(f"{logits_BV.shape[1]} logits for {self._vocab_size} ids")
        numbers, *_, changed, banned = zip(*rows, strict=True) if rows else ((), (), ())
        _require_places(numbers, len(logits_BV))
        changes: tuple[npt.NDArray[Any], ...] = ()
        if len(ids) or len(values) or any(changed) or any(banned):
            changes = self._changes(ids, values, sum(changed), sum(banned))
        ids_at, values_at = [one.ctypes.data for one in changes] or (None, None)
        packed = _packing(len(rows)).pack(*chain.from_iterable(rows))
        next_ids = (ctypes.c_int32 * len(rows))()
        self._library.lmapps_sample(
            self._threads.handle if self._threads else None, self._level, logits_BV.ctypes.data,
            logits_BV.strides[0] // 4, self._vocab_size, packed, len(rows), ids_at, values_at,
            self._room_address, next_ids,
        )  # fmt: skip
        return list(next_ids)

    def _changes(
        self, ids: Any, values: Any, changed: int, banned: int
    ) -> tuple[npt.NDArray[Any], ...]:
        """The ids and values as the library takes them, as many as the rows say."""
        own_ids, own_values = np.array(ids, np.int32), np.array(values, np.float64)
        if (len(own_values), len(own_ids)) != (changed, changed + banned):
            raise ValueError(f"{len(own_ids)} ids for {changed} changes and {banned} bans")
        if len(own_ids):
            _require_places((own_ids.min(), own_ids.max()), self._vocab_size)
        return own_ids, own_values


def _require_places(numbers: Sequence[int], count: int) -> None:
    if numbers and not 0 <= min(numbers) <= max(numbers) < count:
        raise IndexError(f"places {min(numbers)} to {max(numbers)} of {count}")
