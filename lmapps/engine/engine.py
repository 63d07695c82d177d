"""Prompts from many people -> streams of text: one thread, one batch, for all of them."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from lmapps.decoding import Decoding
from lmapps.engine.request import Deliver, Delta, Finish, Request
from lmapps.engine.scheduler import Scheduler
from lmapps.engine.slots import Slots
from lmapps.errors import Busy, InputError, LmappsError, PromptTooLong
from lmapps.model.checkpoint import Checkpoint


@dataclass(frozen=True)
class Reply:
    """A reply at its end."""

    text: str
    ids: tuple[int, ...]
    finish: Finish


class Engine:
    """Owns all generation with one checkpoint. Use it as a context manager, or `close` it.

    slots   how many requests run at once; the others wait their turn
    queue   how many may wait before `Busy` is raised
    weights the precision that the model is used in: float32, bfloat16 or int8
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        slots: int = 16,
        queue: int = 256,
        weights: str = "float32",
    ) -> None:
        self.checkpoint = checkpoint
        self.queue = queue
        rows = Slots(checkpoint.model, slots, weights)
        self._scheduler = Scheduler(rows, checkpoint.tokenizer.vocab_size)
        self._arrived: list[Request] = []
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what is under way and stop the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def step_name(self) -> str:
        """What computes a step, native or torch, in which precision: a line for a person."""
        return self._scheduler.slots.step.name

    @property
    def context(self) -> int:
        """The longest prompt and reply together, in tokens."""
        return self.checkpoint.config.context

    @property
    def passes(self) -> int:
        """Forward passes so far."""
        return self._scheduler.passes

    @property
    def running(self) -> int:
        """Requests that have a slot."""
        return len(self._scheduler.slots.running) + (self._scheduler.reading is not None)

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._scheduler.waiting) + len(self._arrived)

    def submit(self, prompt_ids: Sequence[int], decoding: Decoding, deliver: Deliver) -> Request:
        """Queue a prompt; `deliver` gets every `Delta`, the last with `finish` set.

        A reply that would run out of the context is cut there. Raises `PromptTooLong` where no
        token fits after the prompt, `Busy` where the queue is full.
        """
        if not prompt_ids:
            raise InputError("the prompt is empty: give at least one token")
        room = self.context - len(prompt_ids)
        if room < 1:
            raise PromptTooLong(
                f"the prompt has {len(prompt_ids)} tokens, the model takes at most "
                f"{self.context - 1}: shorten it"
            )
        limit = min(decoding.max_new_tokens, room)
        request = Request(prompt_ids, decoding, limit, self.checkpoint.tokenizer, deliver)
        with self._wake:
            if self._closed:
                raise Busy("the server is shutting down: try again when it is back")
            if self.waiting >= self.queue:
                raise Busy(f"{self.waiting} requests are waiting already: try again in a moment")
            self._arrived.append(request)
            self._wake.notify()
        return request

    async def stream(
        self, prompt_ids: Sequence[int], decoding: Decoding
    ) -> AsyncGenerator[Delta, None]:
        """Deltas as they come, the last with `finish` set. Closing the iterator cancels."""
        loop = asyncio.get_running_loop()
        deltas: asyncio.Queue[Delta] = asyncio.Queue()

        def deliver(delta: Delta) -> None:
            loop.call_soon_threadsafe(deltas.put_nowait, delta)

        request = self.submit(prompt_ids, decoding, deliver)
        try:
            finished = False
            while not finished:
                delta = await deltas.get()
                if delta.error:
                    raise delta.error
                yield delta
                finished = delta.finish is not None
        finally:
            request.cancel()

    async def complete(self, prompt_ids: Sequence[int], decoding: Decoding) -> Reply:
        """The whole reply."""
        return _joined([delta async for delta in self.stream(prompt_ids, decoding)])

    def generate(self, prompt_ids: Sequence[int], decoding: Decoding) -> Reply:
        """The whole reply, for code that is not asynchronous."""
        arriving: queue.SimpleQueue[Delta] = queue.SimpleQueue()
        self.submit(prompt_ids, decoding, arriving.put)
        deltas = [arriving.get()]
        while deltas[-1].finish is None:
            deltas.append(arriving.get())
        if deltas[-1].error:
            raise deltas[-1].error
        return _joined(deltas)

    def _loop(self) -> None:
        with torch.inference_mode():
            while self._take_arrivals():
                try:
                    self._scheduler.step()
                except Exception as error:  # the request boundary
                    self._scheduler.fail(_for_a_person(error))
        self._scheduler.fail(Busy("the server is shutting down: try again when it is back"))

    def _take_arrivals(self) -> bool:
        """Sleep while there is nothing to do; False when the engine is closed."""
        with self._wake:
            while self._scheduler.idle and not self._arrived and not self._closed:
                self._wake.wait()
            self._scheduler.waiting.extend(self._arrived)
            self._arrived.clear()
            return not self._closed


def _joined(deltas: Sequence[Delta]) -> Reply:
    finish = deltas[-1].finish
    assert finish is not None
    ids = tuple(token_id for delta in deltas for token_id in delta.ids)
    return Reply("".join(delta.text for delta in deltas), ids, finish)


def _for_a_person(error: Exception) -> Exception:
    if isinstance(error, LmappsError):
        return error
    failure = LmappsError(f"the engine failed: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
