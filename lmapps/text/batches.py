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
    places_BT: torch.Tensor | None = None
    """Where a row holds several texts that must not see each other: how many tokens of its own
    text stand before each position; 0 begins a new text."""

    @property
    def target_count(self) -> int:
        return int((self.targets_BT != IGNORED).sum())

    def to(self, device: torch.device) -> Batch:
        """On another device. CUDA gets it while it works on, so nobody waits."""
        if device.type == "cpu":
            return self

        def sent(part: torch.Tensor) -> torch.Tensor:
            if device.type != "cuda":
                return part.to(device)
            return part.pin_memory().to(device, non_blocking=True)

        places = None if self.places_BT is None else sent(self.places_BT)
        return Batch(sent(self.ids_BT), sent(self.targets_BT), places)


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
            shift = hash_of(self.seed, epoch) % (slack + 1)
            start = (
                shift + shuffled(index, self.windows, hash_of(self.seed, epoch, 1)) * self.context
            )
            rows.append(self.ids[start : start + self.context + 1])
        return shifted(np.stack(rows).astype(np.int64))


Rows = list[npt.NDArray[np.int64]]
"""A batch of examples: the numbers of those in each row."""


class ExampleBatches:
    """Whole examples with their loss masks, one in a row, beside others of about its length.

    There are few widths, and nearly all batches of a width have one shape: for each shape of a
    product the CPU's library makes code, and keeps it with what that code needs, 8 MB for each
    width of a model of 7 million parameters.
    """

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
        # An example of n ids takes n - 1 positions: its last id is only ever a target.
        self._lengths = np.array([max(1, len(ids) - 1) for ids, _ in examples])
        self._widths = widths(self._lengths)
        self._epoch = -1
        self._plan: list[Rows] = []
        self.batches_per_epoch = len(self._plan_of(0))
        self._starts = [0, self.batches_per_epoch]

    def batch(self, number: int) -> Batch:
        while number >= self._starts[-1]:
            self._starts.append(self._starts[-1] + len(self._plan_of(len(self._starts) - 1)))
        epoch = bisect.bisect_right(self._starts, number) - 1
        return self._made(self._plan_of(epoch)[number - self._starts[epoch]])

    def _plan_of(self, epoch: int) -> list[Rows]:
        """The batches of an epoch."""
        if epoch != self._epoch:
            random = np.random.default_rng([self.seed, epoch])
            self._epoch, self._plan = epoch, self._new_plan(random)
        return self._plan

    def _new_plan(self, random: np.random.Generator) -> list[Rows]:
        """Those of a width together in a random order, and with them what filled no batch of the
        width before; batches shuffled."""
        order = random.permutation(len(self._widths))
        plan: list[Rows] = []
        pending = order[:0]
        for width in np.unique(self._widths):
            pending = np.concatenate((pending, order[self._widths[order] == width]))
            rows = max(1, self.tokens_per_batch // int(width))
            full = len(pending) // rows * rows
            plan += [list(pending[first : first + rows, None]) for first in range(0, full, rows)]
            pending = pending[full:]
        if len(pending):
            plan.append(list(pending[:, None]))
        return [plan[number] for number in random.permutation(len(plan))]

    def _made(self, rows: Rows) -> Batch:
        batch = self._filled(rows, int(self._widths[np.concatenate(rows)].max()))
        return Batch(batch.ids_BT, batch.targets_BT)

    def _filled(self, rows: Rows, width: int) -> Batch:
        """The examples of each row one behind the other, and padding."""
        import torch

        ids = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        targets = np.full((len(rows), width), IGNORED, dtype=np.int64)
        places = np.tile(np.arange(width), (len(rows), 1))
        for row, numbers in enumerate(rows):
            start = 0
            for number in numbers:
                tokens, counted = (np.asarray(part) for part in self.examples[number])
                stop = start + len(tokens) - 1
                ids[row, start:stop] = tokens[:-1]
                targets[row, start:stop] = np.where(counted[1:], tokens[1:], IGNORED)
                start += int(self._lengths[number])
                places[row, start:] = np.arange(width - start)
        return Batch(*map(torch.from_numpy, (ids, targets, places)))


class PackedExamples(ExampleBatches):
    """Whole examples, several in each row of `context` positions. For a Transformer, which keeps
    them apart by a mask; every batch has the same shape."""

    def __init__(
        self,
        examples: Sequence[tuple[Sequence[int], Sequence[bool]]],
        context: int,
        rows: int,
        seed: int,
        pad_id: int,
    ) -> None:
        self.context, self.rows = context, rows
        super().__init__(examples, rows * context, seed, pad_id)

    def _new_plan(self, random: np.random.Generator) -> list[Rows]:
        """Rows as full as can be, shuffled; the last batch is filled up with empty ones."""
        rows = packed_rows(self._lengths, self.context, random)
        rows = [rows[number] for number in random.permutation(len(rows))]
        rows += [np.array([], dtype=np.int64)] * (-len(rows) % self.rows)
        return [rows[first : first + self.rows] for first in range(0, len(rows), self.rows)]

    def _made(self, rows: Rows) -> Batch:
        return self._filled(rows, self.context)


def widths(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Each length rounded up: to a multiple of 8 or, above 64, by an eighth at most; none becomes
    longer than the longest."""
    steps = np.maximum(8, 2 ** np.floor(np.log2(lengths)).astype(np.int64) // 8)
    return np.minimum(-(-lengths // steps) * steps, lengths.max())


def packed_rows(lengths: npt.NDArray[np.int64], capacity: int, random: np.random.Generator) -> Rows:
    """Which of the lengths share a row: the longest first, each into the fullest row with room for
    it (best fit decreasing); equal lengths in a random order."""
    rows: list[list[int]] = []
    rows_with: dict[int, list[int]] = {}  # free places -> rows
    spaces: list[int] = []  # the keys, sorted
    for number in np.lexsort((random.random(len(lengths)), -lengths)):
        length = int(lengths[number])
        assert length <= capacity, f"an example of {length} for rows of {capacity}"
        at = bisect.bisect_left(spaces, length)
        if at == len(spaces):
            row, space = len(rows), capacity
            rows.append([])
        else:
            space = spaces[at]
            row = rows_with[space].pop()
            if not rows_with[space]:
                del spaces[at], rows_with[space]
        rows[row].append(int(number))
        left = space - length
        if left not in rows_with:
            bisect.insort(spaces, left)
            rows_with[left] = []
        rows_with[left].append(row)
    return [np.array(row, dtype=np.int64) for row in rows]


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


def hash_of(*numbers: int) -> int:
    """64 bits that numbers decide."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "little")


def shifted(ids: npt.NDArray[np.int64]) -> Batch:
    """Rows of T+1 ids -> inputs and the ids that follow them."""
    import torch

    return Batch(torch.from_numpy(ids[:, :-1].copy()), torch.from_numpy(ids[:, 1:].copy()))
