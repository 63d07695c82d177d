"""Who runs in the next step: cancel, read prompts in chunks, decode one token for everybody."""

from __future__ import annotations

import time
from collections import deque

import numpy as np
import numpy.typing as npt
import torch

from lmapps.engine.counts import Counts
from lmapps.engine.request import Finish, Request
from lmapps.engine.sampling import logprob_of, sample
from lmapps.engine.slots import Slots
from lmapps.errors import LmappsError

PREFILL_TOKENS = 512
"""The most prompt tokens read in one step, so that a long prompt does not stall the others."""


class Scheduler:
    """Requests in, a batch that everybody joins and leaves at any step. One thread only."""

    def __init__(self, slots: Slots, vocab_size: int) -> None:
        self.slots = slots
        self.vocab_size = vocab_size
        self.waiting: deque[Request] = deque()
        self.reading: Request | None = None
        """The request whose prompt is being read."""
        self.passes = 0
        """Forward passes so far."""
        self.counts = Counts()

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.reading or self.slots.running)

    def step(self) -> None:
        """One round: at most one decoding pass, and as much reading as the budget allows."""
        self._drop_cancelled()
        self._read_prompts()
        if self.slots.running:
            logits_BV = _numbers(self.slots.decode())
            self.passes += 1
            self._sample_all(logits_BV)
        for place, request in enumerate(self.waiting, start=1):
            request.wait_at(place)

    def fail(self, error: Exception) -> None:
        """End everything that is under way: nobody is left waiting for a reply."""
        under_way = [*self.slots.running, *([self.reading] if self.reading else []), *self.waiting]
        self.slots.running.clear()
        self.waiting.clear()
        self.reading = None
        for request in under_way:
            self._end(request, "error", error)

    def _drop_cancelled(self) -> None:
        for row in reversed(range(len(self.slots.running))):
            if self.slots.running[row].cancelled:
                self._end(self.slots.leave(row), "cancelled")
        if self.reading and self.reading.cancelled:
            self._end(self.reading, "cancelled")
            self.reading = None
        for request in [request for request in self.waiting if request.cancelled]:
            self.waiting.remove(request)
            self._end(request, "cancelled")

    def _read_prompts(self) -> None:
        """First come, first read; a prompt read to its end gives its first token and joins."""
        budget = PREFILL_TOKENS
        while budget > 0 and self.slots.free and (self.reading or self.waiting):
            request = self.reading = self.reading or self.waiting.popleft()
            before = request.prefilled
            if before == 0:
                self.counts.prompt_tokens += len(request.prompt_ids)
            logits_V = self.slots.prefill(request, budget)
            self.passes += 1
            budget -= request.prefilled - before
            if request.prefilled == len(request.prompt_ids):
                self.reading = None
                if not self._sample(_numbers(logits_V), request):
                    self.slots.join(request)

    def _sample_all(self, logits_BV: npt.NDArray[np.float32]) -> None:
        ended = [
            row
            for row, request in enumerate(self.slots.running)
            if self._sample(logits_BV[row], request)
        ]
        for row in reversed(ended):
            self.slots.leave(row)

    def _sample(self, logits_V: npt.NDArray[np.float32], request: Request) -> bool:
        """The next id of one request; True when its reply is at its end."""
        logits_V, decoding = logits_V[: self.vocab_size], request.decoding
        try:
            next_id = sample(
                logits_V,
                decoding,
                request.random,
                request.prompt_ids,
                request.generated,
                request.allowed(),
            )
            top = decoding.logprobs
            told = None if top is None else logprob_of(logits_V, next_id, top)
            ended = request.take(next_id, told)
        except LmappsError as error:  # this request's alone
            self._end(request, "error", error)
            return True
        self.counts.generated_tokens += 1
        if len(request.generated) == 1:
            self.counts.first_token.add(time.monotonic() - request.arrived)
        if request.finish:
            self.counts.end(request.finish, time.monotonic())
        return ended

    def _end(self, request: Request, finish: Finish, error: Exception | None = None) -> None:
        request.end(finish, error)
        self.counts.end(finish, time.monotonic())


def _numbers(logits: torch.Tensor) -> npt.NDArray[np.float32]:
    return logits.float().cpu().numpy()
