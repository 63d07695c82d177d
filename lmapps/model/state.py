"""What a body remembers of the tokens so far: one interface for every body.

A state has one row a request, in tensors that are allocated once. `rows(a, b)` is a view: what
the model writes there is written to the whole. Shape legend: B rows, S places for tokens,
K key-value heads, D head width, H hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import torch


class Reach(NamedTuple):
    """Where a step of a fixed shape stands: all that it must know of a state's lengths."""

    lengths_B: torch.Tensor
    """Tokens seen by each row, where the model is."""
    span: int
    """So many places of the cache are looked at; no row is longer afterwards."""


class State:
    """Rows of tensors whose first dimension is the row, and how many tokens each has seen."""

    divisible = False
    """Whether the state after fewer tokens is a part of the state after more."""
    can_be_kept = True
    """Whether `save` and `restore` are there."""

    def __init__(
        self, tensors: list[tuple[torch.Tensor, ...]], lengths: torch.Tensor, capacity: int
    ):
        self.layers = tensors
        self.lengths = lengths
        """Tokens seen by each row, int64, shape (B,), on the CPU."""
        self.capacity = capacity
        """The most tokens that a row can hold."""
        self._views: dict[tuple[int, int], Self] = {}

    def rows(self, start: int, stop: int) -> Self:
        """A view of rows start..stop-1; made once, since slicing dozens of tensors takes longer
        than some models' whole step."""
        view = self._views.get((start, stop))
        if view is None:
            narrowed = [tuple(part[start:stop] for part in layer) for layer in self.layers]
            view = type(self)(narrowed, self.lengths[start:stop], self.capacity)
            self._views[start, stop] = view
        return view

    def move(self, source: int, target: int) -> None:
        """Copy one row over another."""
        self.lengths[target] = self.lengths[source]
        for part in self._parts():
            part[target].copy_(part[source])

    def clear(self, row: int) -> None:
        """Forget what a row has seen."""
        self.lengths[row] = 0
        for part in self._parts():
            part[row].zero_()

    def save(self, row: int) -> list[torch.Tensor]:
        """A copy of what a row has seen."""
        return [part[row].clone() for part in self._parts()]

    def restore(self, row: int, saved: list[torch.Tensor], length: int) -> None:
        """Put a copy back: the state after `length` tokens."""
        self.lengths[row] = length
        for part, copy in zip(self._parts(), saved, strict=True):
            part[row].copy_(copy)

    def cut(self, row: int, length: int) -> None:
        """Forget what came after so many tokens, where a state is `divisible`."""
        raise NotImplementedError

    def share(self, source: int, target: int, length: int) -> None:
        """Give a row the first tokens of another one, where a state is `divisible`."""
        raise NotImplementedError

    def fits(self, lengths: Sequence[int]) -> bool:
        """Whether rows of so many tokens find room together: always, where it is allocated."""
        return True

    def bytes(self) -> int:
        """Memory of all rows."""
        return sum(part.nbytes for part in self._parts())

    def _parts(self) -> Iterator[torch.Tensor]:
        for layer in self.layers:
            yield from layer


class KeyValueCache(State):
    """For each layer keys and values, (B, K, S, D)."""

    divisible = True

    def cut(self, row: int, length: int) -> None:
        self.lengths[row] = length

    def save(self, row: int) -> list[torch.Tensor]:
        used = int(self.lengths[row])
        return [part[row, :, :used].clone() for part in self._parts()]

    def restore(self, row: int, saved: list[torch.Tensor], length: int) -> None:
        self.lengths[row] = length
        for part, copy in zip(self._parts(), saved, strict=True):
            part[row, :, :length].copy_(copy[:, :length])

    def clear(self, row: int) -> None:
        self.lengths[row] = 0  # what lies beyond a row's length is never read

    def move(self, source: int, target: int) -> None:
        self.share(source, target, int(self.lengths[source]))

    def share(self, source: int, target: int, length: int) -> None:
        self.lengths[target] = length
        for part in self._parts():
            part[target, :, :length].copy_(part[source, :, :length])


class HiddenState(State):
    """For each layer the hidden vector (B, H), and for an LSTM the cell (B, H) too."""
