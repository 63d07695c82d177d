"""Prompts from many people -> streams of text: one thread, one batch, for all of them."""

from __future__ import annotations

import atexit
import queue
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Self, cast

from lmapps.decoding import Decoding
from lmapps.engine.admission import ANY, Lengths, admit, longest_reply, patience
from lmapps.engine.compiling import in_time
from lmapps.engine.constraint import Constraint, Grammars
from lmapps.engine.counts import Counts
from lmapps.engine.explanation import Explanation, explain
from lmapps.engine.loop import Loop, engine_failed
from lmapps.engine.mail import Box, Mail
from lmapps.engine.reply import Reply, joined
from lmapps.engine.request import Deliver, Delta, Request
from lmapps.engine.scheduler import Scheduler
from lmapps.engine.scoring import Score, scored
from lmapps.engine.served import Served
from lmapps.engine.slots import Slots
from lmapps.engine.turns import User
from lmapps.errors import InputError, ShuttingDown
from lmapps.messages import Message
from lmapps.model.language_model import LanguageModel
from lmapps.native.step import Step, choose_step
from lmapps.sentence import Sentence
from lmapps.text.tokenizer import Tokenizer


class Engine:
    """Owns all generation with one checkpoint. Use it as a context manager, or `close` it.

    slots   how many requests run at once; the others wait their turn
    queue   how many may wait before `Busy` is raised
    weights the precision that the model is used in: float32, bfloat16 or int8
    name    what people call the model; the checkpoint's own name where it is left out
    step    what computes a step of a model that is not ours
    lengths the longest prompt and reply, where they are shorter than the context
    """

    def __init__(
        self,
        checkpoint: Served,
        *,
        slots: int = 16,
        queue: int = 256,
        weights: str = "float32",
        name: str | None = None,
        step: Step | None = None,
        lengths: Lengths = ANY,
    ) -> None:
        self.checkpoint = checkpoint
        self.name = name or checkpoint.name
        self.queue, self.lengths = queue, lengths
        model = checkpoint.model
        step = step or choose_step(cast(LanguageModel, model), weights)
        rows = Slots(model, slots, step)
        self._mail = Mail()
        self._scheduler = Scheduler(rows, checkpoint.tokenizer.vocab_size, self._mail.send)
        self._grammars = Grammars(checkpoint.tokenizer)
        checkpoint.tokenizer.decode_stream()  # its table is made before anybody waits for it
        self._loop = Loop(self._scheduler, model.device)
        atexit.register(self.close)  # the interpreter must not end in the middle of a step

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what is under way and stop the thread."""
        atexit.unregister(self.close)
        self._loop.close()

    @property
    def about(self) -> Sentence:
        config = self.checkpoint.config
        return Sentence(
            "a {body} of {millions:.1f} million parameters, {context} tokens of context",
            body=config.body, millions=config.parameters / 1e6, context=config.context,
        )  # fmt: skip

    @property
    def folder(self) -> Path | None:
        return self.checkpoint.folder

    @property
    def tokenizer(self) -> Tokenizer:
        return self.checkpoint.tokenizer

    @property
    def bytes(self) -> int:
        """Memory of the weights, of all slots and of the most states that are kept."""
        weights = sum(part.nbytes for part in self.checkpoint.model.parameters())
        return weights + self._scheduler.slots.bytes

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
        return self.counts.passes

    @property
    def counts(self) -> Counts:
        """What it has done so far."""
        return self._scheduler.counts

    def why_not_ready(self) -> str | None:
        """Why a request that comes now would be refused, or would wait for the engine to be made
        ready; None where it would not."""
        if reason := self._refusal(self._left_waiting()):
            return reason
        if preparing := self._loop.preparing:
            return f"the model {self.name!r} is being made ready ({preparing}): try again soon"
        return None

    def _refusal(self, left: Sequence[User]) -> str | None:
        if self._loop.is_closed:
            return ShuttingDown.told
        if reason := self.broken:
            return str(engine_failed(reason))
        if len(left) >= self.queue:
            return Sentence(
                "{count} requests are waiting already: try again in a moment", count=len(left)
            )
        return None

    def _left_waiting(self) -> list[User]:
        """Whose requests fill the queue: not those that find a slot in the next step."""
        return self._scheduler.left_waiting(self._loop.arrived)

    @property
    def broken(self) -> str | None:
        """Why nobody is answered any more, though it was not closed; None where it goes on."""
        return self._loop.broken

    @property
    def running(self) -> int:
        """Requests that have a slot."""
        return len(self._scheduler.slots.running) + (self._scheduler.reading is not None)

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._scheduler.waiting) + len(self._loop.arrived)

    @property
    def prefix_bytes(self) -> int:
        """Memory of the states that are kept for prompts that begin in the same way."""
        return self._scheduler.slots.prefixes.bytes

    def known(self, prompt_ids: Sequence[int]) -> int:
        """How many ids of a prompt need not be read again, as it seems now; from any thread."""
        return self._scheduler.slots.prefixes.spared(prompt_ids)

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation, up to where the reply begins."""
        return self.checkpoint.template.prompt_ids(messages)

    def read(self, text: str | list[int]) -> list[int]:
        """Ids of the beginning of a text. Raises `InputError` for ids outside the vocabulary."""
        if isinstance(text, str):
            return self.tokenizer.prompt_ids(text)
        if all(0 <= number < self.tokenizer.vocab_size for number in text):
            return text
        raise InputError(f"token ids must be between 0 and {self.tokenizer.vocab_size - 1}")

    def measure(self, text: str) -> int:
        """How many ids a text has, by itself."""
        return len(self.tokenizer.encode(text))

    def explain(
        self, messages: Sequence[Message], decoding: Decoding, prompts: int = 1
    ) -> Explanation:
        """Ids, text and loss mask of a conversation."""
        return explain(messages, self.checkpoint.template, decoding, prompts)

    def submit(
        self,
        prompt_ids: Sequence[int],
        decoding: Decoding,
        deliver: Deliver,
        user: User = None,
        constraint: Constraint | None = None,
    ) -> Request:
        """Queue a prompt; `deliver` gets every `Delta`, the last with `finish` set.

        user        who takes turns with others; None = the program itself, without limits
        constraint  of the decoding's regex or schema, where it was compiled already

        A reply that would run out of the context is cut there. Raises `PromptTooLong` where the
        prompt is longer than is taken or leaves no room for a token, `DecodingError` where a reply
        cannot be held to the regex or schema, `Busy` where the queue is full, `EngineFailed` where
        nobody is answered.
        """
        vocab_size = self.tokenizer.vocab_size
        limit = longest_reply(prompt_ids, decoding, self.context, vocab_size, self.lengths)
        constraint = constraint or self._grammars.constraint(decoding)
        request = Request(prompt_ids, decoding, limit, self.tokenizer, deliver, constraint, user)
        with self._loop.turn:
            self._admit(user)
            self._loop.put(request)
        return request

    async def stream(
        self, prompt_ids: Sequence[int], decoding: Decoding, user: User = None,
        constraint: Constraint | None = None,
    ) -> AsyncGenerator[Delta, None]:  # fmt: skip
        """Deltas as they come, the last with `finish` set. Closing the iterator cancels."""
        if decoding.grammar is not None and constraint is None:  # compiled while others go on
            constraint = await in_time(lambda: self._grammars.constraint(decoding), user)
        box = Box()
        request = self.submit(prompt_ids, decoding, self._mail.to(box), user, constraint)
        try:
            finished = False
            while not finished:
                delta = await box.get()
                if delta.error:
                    if delta.ids:
                        yield delta._replace(finish=None, error=None)
                    raise delta.error
                yield delta
                finished = delta.finish is not None
        finally:
            request.cancel()

    async def complete(
        self, prompt_ids: Sequence[int], decoding: Decoding, user: User = None
    ) -> Reply:
        """The whole reply."""
        return joined([delta async for delta in self.stream(prompt_ids, decoding, user)])

    async def score(self, messages: Sequence[Message], reply: str, user: User = None) -> Score:
        """How probable the model finds each token of a reply, its end included."""
        return await scored(self.stream, self.checkpoint.template, messages, reply, user)

    def generate(self, prompt_ids: Sequence[int], decoding: Decoding) -> Reply:
        """The whole reply, for code that is not asynchronous."""
        arriving: queue.SimpleQueue[Delta] = queue.SimpleQueue()
        request = self.submit(prompt_ids, decoding, arriving.put)
        try:
            deltas = [arriving.get()]
            while deltas[-1].finish is None:
                deltas.append(arriving.get())
        finally:  # where somebody interrupts it too
            request.cancel()
        if deltas[-1].error:
            raise deltas[-1].error
        return joined(deltas)

    def _admit(self, user: User) -> None:
        """Count one more. Raises `ShuttingDown`, `EngineFailed`, or `Busy` where too many wait, or
        too many of one person."""
        if self._loop.is_closed:
            raise ShuttingDown()
        if broken := self.broken:
            raise engine_failed(broken)
        left, wait = self._left_waiting(), patience(self.waiting, self.counts)
        admit(self._refusal(left), user, left, self.queue, self.counts, wait)
