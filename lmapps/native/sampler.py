"""Logits of many rows, and how to sample each -> an id each, in one call of `libstep.so`.

The call holds no lock of Python's. `engine/sampling.py` says what is drawn. Shape legend: B rows,
V vocabulary.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lmapps.native.library import levels, library


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


_PACKED = struct.Struct("iiddddii")  # as sample.cpp has them
_TYPES = ("i4", "i4", "f8", "f8", "f8", "f8", "i4", "i4")
_ROW = np.dtype(list(zip(Row._fields, _TYPES, strict=True)))


class Sampler:
    """Draws ids, in float64. Used by one thread. Raises `Unavailable` with the reason.

    level  the number of the instruction set among `levels()`; 0 = the best
    """

    def __init__(self, vocab_size: int, *, level: int = 0) -> None:
        assert level < len(levels())
        self._vocab_size, self._level, self._library = vocab_size, level, library()
        self._room = np.empty(self._library.lmapps_room(vocab_size))

    def __call__(
        self,
        logits_BV: npt.NDArray[Any],
        rows: Sequence[Row],
        ids: npt.ArrayLike = (),
        values: npt.ArrayLike = (),
    ) -> list[int]:
        """The next id of each of these rows, or -1 where the logits allow none or are no numbers.

        ids     of each row the changed ones, then the banned ones; one row behind the other
        values  the logits of the changed ones
        """
        # NumPy takes several times as long to make such an array of tuples.
        packed = np.frombuffer(b"".join(_PACKED.pack(*row) for row in rows), _ROW)
        next_ids = np.empty(len(rows), np.int32)
        own_ids, own_values = np.array(ids, np.int32), np.array(values, np.float64)
        # The library trusts what it is given, so nothing here may be an assert, which -O takes out.
        if logits_BV.dtype != np.float32 or logits_BV.strides[1] != 4:
            raise ValueError(f"logits in {logits_BV.dtype}, {logits_BV.strides} bytes apart")
        if logits_BV.shape[1] != self._vocab_size:
            raise ValueError(f"{logits_BV.shape[1]} logits for {self._vocab_size} ids")
        changed, banned = int(packed["changed"].sum()), int(packed["banned"].sum())
        if (len(own_values), len(own_ids)) != (changed, changed + banned):
            raise ValueError(f"{len(own_ids)} ids for {changed} changes and {banned} bans")
        _require_places(packed["number"], len(logits_BV))
        _require_places(own_ids, self._vocab_size)
        self._library.lmapps_sample(
            self._level, logits_BV.ctypes.data, logits_BV.strides[0] // 4, self._vocab_size,
            packed.ctypes.data, len(rows), own_ids.ctypes.data, own_values.ctypes.data,
            self._room.ctypes.data, next_ids.ctypes.data,
        )  # fmt: skip
        return next_ids.tolist()


def _require_places(numbers: npt.NDArray[np.int32], count: int) -> None:
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < count:
        raise IndexError(f"places {numbers.min()} to {numbers.max()} of {count}")
