"""The states of many requests in one batch: who is in which row.

Rows 0..n-1 are the running requests, so that a step works on a slice and never gathers. A prompt
is read in the next row, where its request joins without a copy, which of a long prompt takes longer
than several steps. Where a step of a fixed shape fills up with rows behind the running ones, it is
read in the last row of all.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lmapps.engine.prefixes import AT_LEAST, Prefixes, common_ids
from lmapps.engine.request import Request
from lmapps.engine.served import Network
from lmapps.memory import is_out_of_memory
from lmapps.model.state import State
from lmapps.native.step import Step

LEAST_PREFIX_BYTES = 64 * 2**20
"""Kept states may take this much memory, or half of what the slots take."""


def most_prefix_bytes(slots: int) -> int:
    """What kept states may take beside slots of so many bytes."""
    return max(LEAST_PREFIX_BYTES, slots // 2)


class Slots:
    """Rows of one preallocated state. Shape legend: B running requests, V vocabulary."""

    def __init__(self, model: Network, count: int, step: Step) -> None:
        self.model = model
        self.step = step
        self.count = count
        self.running: list[Request] = []
        self._row = count
        """Where a prompt is read."""
        self._in_step = False
        """Whether a decoding step has begun, and did not come to its end."""
        self.state = self.step.new_state(count + 1, model.config.context)
        most = most_prefix_bytes(self.state.bytes()) if self.state.can_be_kept else 0
        self.prefixes = Prefixes(most, divisible=self.state.divisible)

    @property
    def bytes(self) -> int:
        """Memory of every row, of the states that may be kept, and of the step's own weights."""
        return self.state.bytes() + self.prefixes.most_bytes + self.step.bytes

    @property
    def _reading(self) -> State:
        """The row where prompts are read."""
        return self.state.rows(self._row, self._row + 1)

    def warm_up(self) -> Iterator[str]:
        """Prepare every step of the shapes that there will be, the largest first, since the
        others find room in its memory; says beforehand which comes."""
        shapes = self.step.shapes
        todo = [(self._reading, tokens) for tokens in shapes.tokens]
        todo += [(self.state.rows(0, rows), 1) for rows in shapes.rows]
        for number, (rows, tokens) in enumerate(reversed(todo), start=1):
            yield f"step {number} of {len(todo)}"
            self.step.prepare(rows, tokens)
        for row in range(self.count + 1) if todo else ():
            self.state.clear(row)

    @property
    def _shares(self) -> bool:
        """Whether a prompt can begin with what a running request has read."""
        return self.state.divisible and bool(self.prefixes.most_bytes)

    @property
    def free(self) -> int:
        return self.count - len(self.running)

    def open(self, request: Request) -> torch.Tensor | None:
        """Begin a prompt where a state is known; logits (V,) where all of it was read before."""
        self._choose_row()
        found = self.prefixes.find(request.prompt)
        row, common = self._begins_alike(request)
        if common > (found[1] if found else 0):
            self.state.share(row, self._row, common)
            request.prefilled = request.reused = common
            return None
        if found is None:
            return None
        prefix, length = found
        self.state.restore(self._row, prefix.state, length)
        request.prefilled = request.reused = length
        return prefix.logits_V if length == len(request.prompt_ids) else None

    def _choose_row(self) -> None:
        """Where the next prompt is read; what was begun elsewhere and did not join is forgotten."""
        before, self._row = self._row, self.count if self.step.shapes.rows else len(self.running)
        if before != self._row and before >= len(self.running):
            self.state.clear(before)

    def _begins_alike(self, request: Request) -> tuple[int, int]:
        """The running row whose prompt has the most in common with this one's beginning, and how
        many ids that spares; 0 where none does."""
        if not self._shares:
            return 0, 0
        common = [common_ids(other.prompt, request.prompt) for other in self.running]
        row = max(range(len(common)), key=common.__getitem__, default=0)
        spared = min(common[row], len(request.prompt) - 1) if common else 0
        return row, spared if spared >= AT_LEAST else 0

    def keep_prompt(self, request: Request, logits_V: torch.Tensor) -> None:
        """Keep the state of the prompt that was just read, unless others can begin with it where it
        is, and it is kept with the reply: the copy of a long one would take longer than a step."""
        if self._shares and request.max_new_tokens > 1:
            return
        known = None if self.state.divisible else logits_V
        self._keep(request.prompt_ids, self._row, known)

    def keep_reply(self, row: int) -> None:
        """Keep the state of a prompt and its reply; the last id sampled was not read yet."""
        request = self.running[row]
        self._keep([*request.prompt_ids, *request.generated[:-1]], row, None)

    def _keep(self, ids: list[int], row: int, logits_V: torch.Tensor | None) -> None:
        """Where memory does not suffice, what was kept is given up, and nobody's reply."""
        try:
            known = None if logits_V is None else logits_V.clone()
            self.prefixes.keep(ids, self.state.save(row), known)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self.prefixes.clear()

    def prefill(self, request: Request, most: int) -> torch.Tensor:
        """Read at most so many more ids of a prompt; logits (V,) after the last one read."""
        if request.prefilled == 0:
            self.state.clear(self._row)
        if not self.step.continues:
            most = len(request.prompt_ids)
        left = len(request.prompt_ids) - request.prefilled
        piece = self.step.shapes.piece(min(most, left))
        ids = request.prompt_ids[request.prefilled : request.prefilled + piece]
        logits_1V = self.step(torch.tensor([ids]), self._reading)
        request.prefilled += len(ids)
        return logits_1V[0]

    def join(self, request: Request) -> None:
        """Give the request whose prompt was just read a row among the running."""
        if self._row != len(self.running):  # others have left meanwhile
            self.state.move(self._row, len(self.running))
            self.state.clear(self._row)
        self.running.append(request)

    def decode(self) -> torch.Tensor:
        """One token further in every running row; logits (B, V)."""
        count = len(self.running)
        rows = self.state.rows(0, self.step.shapes.padded(count))
        free = len(rows.lengths) - count
        last_ids = [[request.generated[-1]] for request in self.running] + [[0]] * free
        ids_B1 = torch.tensor(last_ids)
        self._in_step = True
        logits_BV = self.step(ids_B1, rows)
        self._in_step = False
        if free:
            rows.lengths[count:] = 0  # what was read there is nobody's
        return logits_BV[:count]

    def take_back(self) -> bool:
        """Undo a step that failed in its middle; False where the states cannot tell the steps
        apart any more: a hidden vector may have moved before the lengths did."""
        if self._in_step and not self.state.divisible:
            return False
        for row, request in enumerate(self.running):
            length = request.length - 1
            if int(self.state.lengths[row]) != length:
                if not self.state.divisible:
                    return False
                self.state.cut(row, length)
        return True

    def leave(self, row: int) -> Request:
        """Free a row, and what its state takes; the last running one moves into it."""
        request, last = self.running[row], self.running.pop()
        if last is not request:
            self.state.move(len(self.running), row)
            self.running[row] = last
        self.state.clear(len(self.running))
        return request
