"""States of prompts and replies that were read already -> a new prompt begins where they end.

The second turn of a chat is the first one's prompt and reply, and something new: only that is
read. States are kept at the end of a reply, and found by ids, since a sampled reply need not come
back as the same ids when its text is encoded. A key-value cache can be cut anywhere, so that the
longest common beginning counts, also with a prompt whose reply is under way; a hidden vector stands
for just the ids it has seen, and is kept at the end of a prompt too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter

import numpy as np
import numpy.typing as npt
import torch

AT_LEAST = 8
"""Fewer ids are read faster than looked for."""
MOST_ENTRIES = 256

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Prefix:
    """What a row held after these ids."""

    ids: Ids
    state: list[torch.Tensor]
    logits_V: torch.Tensor | None
    """The logits after the last id, where they are known."""

    @cached_property
    def start(self) -> bytes:
        """The first ids, of which there are at least so many: quickly compared."""
        return self.ids[:AT_LEAST].tobytes()

    @property
    def bytes(self) -> int:
        logits = 0 if self.logits_V is None else self.logits_V.nbytes
        return self.ids.nbytes + logits + sum(part.nbytes for part in self.state)


class Prefixes:
    """The states used last, in a bounded memory.

    most_bytes  what all of them take at most; 0 = none are kept
    divisible   whether the state after fewer ids is a part of the one after more
    """

    def __init__(self, most_bytes: int, *, divisible: bool) -> None:
        self.most_bytes = most_bytes
        self.divisible = divisible
        self.bytes = 0
        self._entries: list[Prefix] = []  # the one used last stands last

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, prompt_ids: Sequence[int] | Ids) -> tuple[Prefix, int] | None:
        """The entry that spares the most reading, and how many ids it spares.

        These are all ids of the prompt only where the logits after them are known too.
        """
        entry, spared = self._best(prompt_ids)
        if entry is None:
            return None
        self._entries = [other for other in self._entries if other is not entry]
        self._entries.append(entry)
        return entry, spared

    def spared(self, prompt_ids: Sequence[int] | Ids) -> int:
        """How many ids `find` would spare; changes nothing, so that any thread may ask."""
        return self._best(prompt_ids)[1]

    def keep(
        self,
        ids: Sequence[int],
        state: list[torch.Tensor],
        logits_V: torch.Tensor | None = None,
    ) -> None:
        """Remember a state, and forget what it makes needless or what was not used for longest."""
        entry = Prefix(np.array(ids, dtype=np.int32), state, logits_V)
        if len(ids) < AT_LEAST or entry.bytes > self.most_bytes:
            return
        for other in [other for other in self._entries if self._replaces(entry, other)]:
            self._forget(other)
        self._entries.append(entry)
        self.bytes += entry.bytes
        while self.bytes > self.most_bytes or len(self._entries) > MOST_ENTRIES:
            self._forget(self._entries[0])

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.bytes = 0

    def _best(self, prompt_ids: Sequence[int] | Ids) -> tuple[Prefix | None, int]:
        """The entry that spares the most, and how much; None and 0 where that is not worth it."""
        wanted = np.asarray(prompt_ids, dtype=np.int32)
        start = wanted[:AT_LEAST].tobytes()
        alike = [entry for entry in list(self._entries) if entry.start == start]  # most are not
        spared = [(entry, self._spared(entry, wanted)) for entry in alike]
        worth = [(entry, count) for entry, count in spared if count >= AT_LEAST]
        return max(worth, key=itemgetter(1), default=(None, 0))

    def _forget(self, entry: Prefix) -> None:
        self._entries = [other for other in self._entries if other is not entry]
        self.bytes -= entry.bytes

    def _spared(self, entry: Prefix, wanted: Ids) -> int:
        common = common_ids(entry.ids, wanted)
        is_whole = common == len(entry.ids)
        if is_whole and common == len(wanted) and entry.logits_V is not None:
            return common
        if self.divisible:
            return min(common, len(wanted) - 1)
        return common if is_whole and common < len(wanted) else 0

    def _replaces(self, new: Prefix, old: Prefix) -> bool:
        if len(old.ids) > len(new.ids) or (not self.divisible and len(old.ids) < len(new.ids)):
            return False
        return old.start == new.start and common_ids(old.ids, new.ids) == len(old.ids)


def common_ids(one: Ids, other: Ids) -> int:
    """How many ids are the same at the beginning."""
    size = min(len(one), len(other))
    differ = np.flatnonzero(one[:size] != other[:size])
    return int(differ[0]) if len(differ) else size
