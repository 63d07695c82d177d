"""Token files or examples -> batches, each a pure function of its number.

Nothing is remembered between batches: batch 1,234 is the same after a restart, on any process,
so a run resumes exactly by knowing its step.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from lmapps.errors import DataError

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""A target that does not count in the loss."""


@dataclass(frozen=True)
class Batch:
    """Shape legend: B rows, T positions. `targets_BT[b, t]` follows `ids_BT[b, t]`."""

    ids_BT: torch.Tensor
    targets_BT: torch.Tensor

    @property
    def target_count(self) -> int:
        return int((self.targets_BT != IGNORED).sum())


class BatchSource(Protocol):
    """Where the training loop takes its batches from."""

    tokens_per_batch: int
    """Positions in one micro-batch, padding included (for an examples source: at most)."""

    batches_per_epoch: int

    def batch(self, number: int) -> Batch:
        """Micro-batch `number`, counted over the whole run and all processes."""


class PackedBatches:
    """Windows of `context` tokens from one long stream, in an order shuffled for each epoch."""

    def __init__(self, ids: npt.NDArray[Any], context: int, rows: int, seed: int) -> None:
        self.windows = (len(ids) - 1) // context
        if self.windows < 1:
            raise DataError(
                f"the training text has {len(ids)} tokens, fewer than one context of {context}: "
                "give more text, or choose a smaller --context"
            )
        self.ids, self.context, self.rows, self.seed = ids, context, rows, seed
        self.tokens_per_batch = rows * context
        self.batches_per_epoch = max(1, self.windows // rows)

    def batch(self, number: int) -> Batch:
        slack = len(self.ids) - 1 - self.windows * self.context
        rows = []
        for place in range(number * self.rows, (number + 1) * self.rows):
            epoch, index = divmod(place, self.windows)
            shift = _hash(self.seed, epoch) % (slack + 1)
            start = shift + shuffled(index, self.windows, _hash(self.seed, epoch, 1)) * self.context
            rows.append(self.ids[start : start + self.context + 1])
        return _shifted(np.stack(rows).astype(np.int64))


class ExampleBatches:
    """Whole examples with their loss masks, batched with others of about the same length."""

    def __init__(
        self,
        examples: Sequence[tuple[Sequence[int], Sequence[bool]]],
        tokens_per_batch: int,
        seed: int,
        pad_id: int,
    ) -> None:
        if not examples:
            raise DataError("there are no examples to train on")
        self.examples, self.seed, self.pad_id = examples, seed, pad_id
        self.tokens_per_batch = tokens_per_batch
        self._lengths = np.array([len(ids) for ids, _ in examples])
        self._epoch = -1
        self._plan: list[npt.NDArray[np.int64]] = []
        self.batches_per_epoch = len(self._plan_of(0))
        self._starts = [0, self.batches_per_epoch]

    def batch(self, number: int) -> Batch:
        while number >= self._starts[-1]:
            self._starts.append(self._starts[-1] + len(self._plan_of(len(self._starts) - 1)))
        epoch = bisect.bisect_right(self._starts, number) - 1
        return self._pad(self._plan_of(epoch)[number - self._starts[epoch]])

    def _plan_of(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """The examples of each batch of an epoch: near lengths together, batches shuffled."""
        if epoch == self._epoch:
            return self._plan
        random = np.random.default_rng([self.seed, epoch])
        order = np.argsort(self._lengths * random.uniform(0.9, 1.1, len(self._lengths)))
        plan, first = [], 0
        while first < len(order):
            last = first + 1
            longest = self._lengths[order[first]]
            while last < len(order):
                longest = max(longest, self._lengths[order[last]])
                if longest * (last + 1 - first) > self.tokens_per_batch:
                    break
                last += 1
            plan.append(order[first:last])
            first = last
        shuffle = random.permutation(len(plan))
        self._epoch, self._plan = epoch, [plan[number] for number in shuffle]
        return self._plan

    def _pad(self, numbers: npt.NDArray[np.int64]) -> Batch:
        width = max(2, int(self._lengths[numbers].max()))
        ids = np.full((len(numbers), width), self.pad_id, dtype=np.int64)
        counted = np.zeros((len(numbers), width), dtype=bool)
        for row, number in enumerate(numbers):
            tokens, mask = self.examples[number]
            ids[row, : len(tokens)] = tokens
            counted[row, : len(tokens)] = mask
        return _shifted(ids, counted)


class MixedBatches:
    """Batches of one source with a share of another's between them, evenly."""

    def __init__(self, main: BatchSource, other: BatchSource, share: float) -> None:
        self.main, self.other, self.share = main, other, share
        self.tokens_per_batch = max(main.tokens_per_batch, other.tokens_per_batch)
        self.batches_per_epoch = max(1, round(main.batches_per_epoch / (1 - share)))

    def batch(self, number: int) -> Batch:
        before, with_it = (int(count * self.share) for count in (number, number + 1))
        if with_it > before:
            return self.other.batch(before)
        return self.main.batch(number - before)


def shuffled(index: int, size: int, key: int) -> int:
    """Place `index` of a shuffle of range(size), in constant memory.

    A four-round Feistel network on the next even power of two, walked until it lands inside
    (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    value = index
    while True:
        left, right = value >> half_bits, value & mask
        for turn in range(4):
            left, right = right, left ^ (_mix(right, key + turn) & mask)
        value = left << half_bits | right
        if value < size:
            return value


def _mix(value: int, key: int) -> int:
    """64 well-mixed bits (the finaliser of SplitMix64)."""
    bits = (value * 0x9E3779B97F4A7C15 + key) & 0xFFFFFFFFFFFFFFFF
    bits = ((bits ^ bits >> 30) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    bits = ((bits ^ bits >> 27) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return bits ^ bits >> 31


def _hash(*numbers: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "little")


def _shifted(ids: npt.NDArray[np.int64], counted: npt.NDArray[np.bool_] | None = None) -> Batch:
    """Rows of T+1 ids -> inputs and the ids that follow them, uncounted ones ignored."""
    import torch

    inputs = torch.from_numpy(ids[:, :-1].copy())
    targets = torch.from_numpy(ids[:, 1:].copy())
    if counted is not None:
        targets[~torch.from_numpy(counted[:, 1:].copy())] = IGNORED
    return Batch(inputs, targets)
