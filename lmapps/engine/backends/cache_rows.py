"""Caches that transformers made -> rows of one state: each by itself, or several in one cache.

Shape legend: B rows, K key-value heads, S places, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F

from lmapps.model.state import State


@dataclass(frozen=True)
class Part:
    """A row of a cache that several share."""

    cache: Any
    row: int
    begins: int
    """So many places before its first token are only filled up."""


class CacheRows(State):
    """A row is None while it is empty, has a cache of its own, or is a `Part` of one.

    divisible  whether the caches only grow by new tensors (`DynamicLayer`): such a one can be kept
               and cut without a copy, and rows can be joined
    size       what is counted as its memory, in bytes; caches grow as they are used
    tokens     of all rows together, so many find room in it
    """

    def __init__(
        self, count: int, capacity: int, divisible: bool, config: Any, size: int, tokens: int
    ) -> None:
        super().__init__([], torch.zeros(count, dtype=torch.int64), capacity)
        self.divisible = self.can_be_kept = divisible
        self._caches: list[Any] = [None] * count
        self._start, self._config = 0, config
        self._size, self._tokens = size, tokens

    def __getitem__(self, row: int) -> Any:
        return self._caches[self._start + row]

    def __setitem__(self, row: int, cache: Any) -> None:
        self._caches[self._start + row] = cache

    def own(self, row: int, length: int) -> Any:
        """The cache of one row of so many tokens, which nobody else has."""
        if isinstance(self[row], Part):
            self[row] = self._made([self._layers(row, length)])
        return self[row]

    def joined(self, lengths_B: torch.Tensor) -> Any:
        """One cache for all rows, which have so many tokens; made anew where others joined or
        left since the last step."""
        lengths = lengths_B.tolist()
        first = self[0]
        if isinstance(first, Part) and len(first.cache.layers[0].keys) == len(lengths):
            places = [(first.cache, row) for row in range(len(lengths))]
            parts = [self[row] for row in range(len(lengths))]
            if [(p.cache, p.row) if isinstance(p, Part) else p for p in parts] == places:
                return first.cache
        cache = self._made([self._layers(row, length) for row, length in enumerate(lengths)])
        for row, length in enumerate(lengths):
            self[row] = Part(cache, row, max(lengths) - length)
        return cache

    def rows(self, start: int, stop: int) -> Self:
        view = type(self)(0, self.capacity, self.divisible, self._config, self._size, self._tokens)
        view._caches, view._start = self._caches, self._start + start
        view.lengths = self.lengths[start:stop]
        return view

    def move(self, source: int, target: int) -> None:
        """The row that is left has nothing: who moves has gone from there."""
        self.lengths[target] = self.lengths[source]
        self[target], self[source] = self[source], None

    def clear(self, row: int) -> None:
        self.lengths[row] = 0
        self[row] = None

    def save(self, row: int) -> list[torch.Tensor]:
        """Keys and values of each layer, (1, K, S, D); they are never written to again."""
        if not self.can_be_kept:
            return []
        layers = self._layers(row, int(self.lengths[row]))
        is_shared = isinstance(self[row], Part)  # else it would keep the others' memory too
        return [part.clone() if is_shared else part for layer in layers for part in layer]

    def restore(self, row: int, saved: list[torch.Tensor], length: int) -> None:
        cut = [part[:, :, :length] for part in saved]
        self[row] = self._made([list(zip(cut[::2], cut[1::2], strict=True))])
        self.lengths[row] = length

    def cut(self, row: int, length: int) -> None:
        """Also where a step ended in its middle, so that some layers have more than others."""
        self.share(row, row, length)

    def share(self, source: int, target: int, length: int) -> None:
        """Without a copy: what is there is never written to again."""
        layers = self._layers(source, int(self.lengths[source]))
        self.restore(target, [part for layer in layers for part in layer], length)

    def fits(self, lengths: Sequence[int]) -> bool:
        """One always does. Rows that can be joined are filled up to the longest."""
        tokens = len(lengths) * max(lengths) if self.divisible else sum(lengths)
        return len(lengths) == 1 or tokens <= self._tokens

    def bytes(self) -> int:
        return self._size

    def _layers(self, row: int, length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of each layer, (1, K, S, D): S is the length, or less where a step
        ended in its middle."""
        cache = self[row]
        if not isinstance(cache, Part):
            return [(layer.keys, layer.values) for layer in cache.layers]
        row_1, ends = slice(cache.row, cache.row + 1), cache.begins + length
        return [
            (layer.keys[row_1, :, cache.begins : ends], layer.values[row_1, :, cache.begins : ends])
            for layer in cache.cache.layers
        ]

    def _made(self, rows: list[list[tuple[torch.Tensor, torch.Tensor]]]) -> Any:
        """A cache of these rows, each filled up at the left to the longest."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self._config)
        for number, layers in enumerate(zip(*rows, strict=True)):
            longest = max(keys.shape[2] for keys, _ in layers)
            keys, values = (
                parts[0]
                if len(parts) == 1
                else torch.cat([F.pad(part, (0, 0, longest - part.shape[2], 0)) for part in parts])
                for parts in zip(*layers, strict=True)
            )
            cache.update(keys, values, number)
        return cache
