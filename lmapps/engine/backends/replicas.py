"""Copies of one model, each with an engine of its own -> one backend that places requests."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path

from lmapps.decoding import Decoding
from lmapps.engine.admission import Lengths
from lmapps.engine.counts import Counts
from lmapps.engine.engine import Engine
from lmapps.engine.explanation import Explanation
from lmapps.engine.reply import Reply
from lmapps.engine.request import Delta
from lmapps.engine.scoring import Score
from lmapps.engine.turns import User
from lmapps.messages import Message
from lmapps.sentence import Sentence
from lmapps.text.tokenizer import Tokenizer

NEAR = 2
"""A copy that knows the beginning of a prompt may have so many requests more than the one with the
fewest: reading again costs about as much as a little company."""


class Replicas:
    """The same checkpoint on several GPUs behind one name.

    A request goes to the copy with the fewest requests, or to one nearly as free that has read
    the beginning of its prompt already; never to one that would refuse it while others would not.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = list(engines)
        self.loads = dict.fromkeys(self.engines, 0)
        """Requests that each copy has. Counted here: while its thread takes a request from one
        place to the next, a copy's own numbers are off by one."""
        self._turn = threading.Lock()
        self._first = self.engines[0]

    def placed(self, prompt_ids: Sequence[int]) -> Engine:
        """Where a prompt is answered."""
        able = [engine for engine in self.engines if not engine.why_not_ready()] or self.engines
        least = min(self.loads[engine] for engine in able)
        near = [engine for engine in able if self.loads[engine] <= least + NEAR]
        return max(near, key=lambda engine: (engine.known(prompt_ids), -self.loads[engine]))

    @contextmanager
    def _at_home(self, prompt_ids: Sequence[int]) -> Iterator[Engine]:
        """Where a prompt is answered, for as long as it is."""
        with self._turn:
            home = self.placed(prompt_ids)
            self.loads[home] += 1
        try:
            yield home
        finally:
            with self._turn:
                self.loads[home] -= 1

    @property
    def name(self) -> str:
        return self._first.name

    @property
    def about(self) -> Sentence:
        return self._first.about

    @property
    def step_name(self) -> str:
        return "; ".join(engine.step_name for engine in self.engines)

    @property
    def context(self) -> int:
        return self._first.context

    @property
    def lengths(self) -> Lengths:
        return self._first.lengths

    @property
    def folder(self) -> Path | None:
        return self._first.folder

    @property
    def tokenizer(self) -> Tokenizer:
        return self._first.tokenizer

    @property
    def bytes(self) -> int:
        return sum(engine.bytes for engine in self.engines)

    @property
    def prefix_bytes(self) -> int:
        return sum(engine.prefix_bytes for engine in self.engines)

    @property
    def counts(self) -> Counts:
        """Of all copies together, as they are at this moment."""
        return Counts.of([engine.counts for engine in self.engines])

    @property
    def running(self) -> int:
        return sum(engine.running for engine in self.engines)

    @property
    def waiting(self) -> int:
        return sum(engine.waiting for engine in self.engines)

    @property
    def broken(self) -> str | None:
        """Why a copy answers nobody any more: then all are begun anew."""
        return next((engine.broken for engine in self.engines if engine.broken), None)

    def why_not_ready(self) -> str | None:
        """Why no copy would take a request."""
        reasons = [engine.why_not_ready() for engine in self.engines]
        return reasons[0] if all(reasons) else None

    def render(self, messages: Sequence[Message]) -> list[int]:
        return self._first.render(messages)

    def read(self, text: str | list[int]) -> list[int]:
        return self._first.read(text)

    def measure(self, text: str) -> int:
        return self._first.measure(text)

    def explain(
        self, messages: Sequence[Message], decoding: Decoding, prompts: int = 1
    ) -> Explanation:
        return self._first.explain(messages, decoding, prompts)

    async def stream(
        self, prompt_ids: list[int], decoding: Decoding, user: User = None
    ) -> AsyncGenerator[Delta, None]:
        """Deltas of the copy where it is placed, once the first is asked for: of several streams
        that are made together each sees where those before it went. Closing the iterator cancels.
        """
        with self._at_home(prompt_ids) as home:
            async with aclosing(home.stream(prompt_ids, decoding, user)) as deltas:
                async for delta in deltas:
                    yield delta

    async def complete(self, prompt_ids: list[int], decoding: Decoding, user: User = None) -> Reply:
        with self._at_home(prompt_ids) as home:
            return await home.complete(prompt_ids, decoding, user)

    async def score(self, messages: Sequence[Message], reply: str, user: User = None) -> Score:
        with self._at_home(self.render(messages)) as home:
            return await home.score(messages, reply, user)

    def close(self) -> None:
        """End what is under way on every copy."""
        for engine in self.engines:
            engine.close()
