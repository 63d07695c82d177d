"""A plugin, a model and what a person filled in -> events, ending in the whole reply."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

from lmapps.decoding import Decoding
from lmapps.engine.backends.backend import Backend, Prompt
from lmapps.engine.context import cut, fit_conversation, fit_prompt, length_of, prompt_room
from lmapps.engine.explanation import Explanation
from lmapps.engine.reply import Reply, joined
from lmapps.engine.request import Finish
from lmapps.engine.turns import User
from lmapps.engine.workers import workers_of
from lmapps.errors import ReplyError
from lmapps.fields import Messages
from lmapps.passage import Passage
from lmapps.plugin import Plugin, Steps
from lmapps.sentence import Sentence

T = TypeVar("T")
ASKED, FINISHED = Sentence("asked anything"), Sentence("finished a reply")
"""What a plugin's code is called for, as one says that it has not done it."""
SIDE_BY_SIDE = 8
"""The most prompts of one step that run at once: others want their turn too."""
MARGIN = 16
"""Tokens left over in a measured passage, since other words around it cost a little more."""


@dataclass(frozen=True)
class Text:
    """More of the reply."""

    text: str


@dataclass(frozen=True)
class Asked:
    """What the model is asked now: of several prompts side by side, the first."""

    messages: Messages
    decoding: Decoding
    backend: Backend = field(repr=False, compare=False)
    prompts: int = 1

    def explained(self) -> Explanation:
        """What the model is given: ids, text and loss mask. Raises `InputError` where these are
        not known here."""
        return self.backend.explain(self.messages, self.decoding, self.prompts)


@dataclass(frozen=True)
class Clear:
    """What was streamed so far was only a step on the way: forget it."""


@dataclass(frozen=True)
class Progress:
    """Of a step's prompts so many are done."""

    done: int
    total: int


@dataclass(frozen=True)
class Notice:
    """Something that the person should know."""

    text: Sentence


@dataclass(frozen=True)
class Waiting:
    """The place in the queue: 1 = next."""

    position: int


@dataclass(frozen=True)
class Reading:
    """Of a long prompt's tokens so many are read."""

    read: int
    total: int


@dataclass(frozen=True)
class Done:
    """The whole reply, tidied by the plugin, and what it took."""

    reply: str
    value: Any
    """What the reply is worth: the text itself, a text of a Literal, or a dataclass."""
    finish: Finish
    prompt_tokens: int
    completion_tokens: int


Event = Asked | Text | Clear | Progress | Notice | Waiting | Reading | Done
_Events = AsyncGenerator[Any, None]
_Begun = tuple[Steps, Messages | list[Messages] | None]


class Application:
    """One plugin on one model, for somebody who takes turns with others."""

    def __init__(self, plugin: Plugin, backend: Backend, user: User = None) -> None:
        self.plugin, self.backend, self.user = plugin, backend, user

    async def events(
        self, values: Mapping[str, Any], decoding: Decoding | None = None
    ) -> AsyncGenerator[Event, None]:
        """Run the plugin. Closing the iterator frees what it holds in the engine.

        Raises `FieldError`, `PluginError`, `PromptTooLong`, `ReplyError` or `Busy`.
        """
        decoding = decoding or self.plugin.decoding
        steps, asked = await self._first(values, decoding)
        done = None
        while asked is not None:
            if done is not None:
                yield Clear()
            async with aclosing(self._step(asked, decoding)) as events:
                async for event in events:
                    if isinstance(event, _Step):
                        done = event
                    else:
                        yield event
            assert done is not None
            asked = await self._theirs(partial(_advance, steps, done.replies), ASKED)
        assert done is not None, "a plugin asks at least once, else `steps` raises"
        reply, value = await self._theirs(partial(self._ended, done, decoding), FINISHED)
        yield Done(reply, value, done.finish, done.prompt_tokens, done.completion_tokens)

    async def explain(
        self, values: Mapping[str, Any], decoding: Decoding | None = None
    ) -> Explanation:
        """What the model would be asked first, without asking it. Raises as `events` does."""
        return (await self.asks(values, decoding)).explained()

    async def asks(self, values: Mapping[str, Any], decoding: Decoding | None = None) -> Asked:
        """The same, as messages."""
        decoding = decoding or self.plugin.decoding
        steps, asked = await self._first(values, decoding)
        await self._theirs(steps.close, ASKED)
        assert asked is not None
        several = _is_several(asked)
        conversations = cast(list[Messages], asked if several else [asked])
        if not several:
            decoding = self.plugin.reply_form.hold(decoding)
        _, kept = self._fit(conversations[0], decoding)
        return Asked(kept, decoding, self.backend, len(conversations))

    async def reply(self, values: Mapping[str, Any], decoding: Decoding | None = None) -> Done:
        """Run the plugin to its end."""
        async for event in self.events(values, decoding):
            if isinstance(event, Done):
                return event
        raise AssertionError("events end in Done")

    async def _first(self, values: Mapping[str, Any], decoding: Decoding) -> _Begun:
        """The plugin's steps, and what it asks first."""
        arguments = self.plugin.validate(values)

        def begin() -> _Begun:
            steps = self.plugin.steps(self._measured(arguments, decoding))
            return steps, _advance(steps, None)

        # A plugin may think for long, and a long text takes long to cut: not in the event loop.
        return await self._theirs(begin, ASKED)

    async def _theirs(self, work: Callable[[], T], wanted: str) -> T:
        """Run the plugin's code, which nobody here trusts to come back."""
        return await workers_of(self.plugin).run(work, wanted)

    def _ended(self, done: _Step, decoding: Decoding) -> tuple[str, Any]:
        """The whole reply as the plugin leaves it, and what it is worth."""
        reply = self.plugin.finished("\n\n".join(done.replies))
        try:
            return reply, self.plugin.reply_form.parse(reply)
        except ReplyError as error:
            if done.finish != "length":
                raise
            most = min(decoding.max_new_tokens, self.backend.lengths.reply)
            raise ReplyError(
                "{error}: it was cut at {tokens} tokens or the end of the context; allow more with "
                "max_new_tokens, as far as the server does", error=error, tokens=most,
            ) from None  # fmt: skip

    def _step(self, asked: Messages | list[Messages], decoding: Decoding) -> _Events:
        if _is_several(asked):
            return self._several(cast(list[Messages], asked), decoding)
        return self._single(cast(Messages, asked), decoding)

    async def _single(self, messages: Messages, decoding: Decoding) -> _Events:
        """One conversation, streamed."""
        decoding = self.plugin.reply_form.hold(decoding)
        prompt, kept = await cut(lambda: self._fit(messages, decoding), length_of(messages))
        yield Asked(kept, decoding, self.backend)
        if lost := len(messages) - len(kept):
            yield Notice(Sentence(
                "The conversation is longer than the {most} tokens of a prompt: its oldest {count} "
                "messages are left out.", most=prompt_room(self.backend, decoding), count=lost,
            ))  # fmt: skip
        told = []
        async with aclosing(self.backend.stream(prompt, decoding, self.user)) as deltas:
            async for delta in deltas:
                if delta.position is not None:
                    yield Waiting(delta.position)
                if delta.read:
                    yield Reading(*delta.read)
                if delta.text:
                    yield Text(delta.text)
                told.append(delta)
        reply = joined(told)
        yield _Step([reply.text], reply.finish, reply.prompt_tokens(prompt), reply.tokens)

    async def _several(self, conversations: Sequence[Messages], decoding: Decoding) -> _Events:
        """Several conversations side by side, kept inside."""
        prompts = await cut(
            lambda: [self._fit(messages, decoding)[0] for messages in conversations],
            sum(map(length_of, conversations)),
        )
        yield Asked(conversations[0], decoding, self.backend, len(prompts))
        turns = asyncio.Semaphore(SIDE_BY_SIDE)

        async def complete(prompt: Prompt) -> Reply:
            async with turns:
                return await self.backend.complete(prompt, decoding, self.user)

        tasks = [asyncio.create_task(complete(prompt)) for prompt in prompts]
        try:
            yield Progress(0, len(tasks))
            for number, next_done in enumerate(asyncio.as_completed(tasks), start=1):
                await next_done
                yield Progress(number, len(tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # their slots are free again
        replies = [task.result() for task in tasks]
        finish: Finish = "length" if any(r.finish == "length" for r in replies) else "stop"
        finished = await self._theirs(
            lambda: [self.plugin.finished(reply.text) for reply in replies], FINISHED
        )
        read = sum(r.prompt_tokens(prompt) for r, prompt in zip(replies, prompts, strict=True))
        yield _Step(finished, finish, read, sum(reply.tokens for reply in replies))

    def _fit(self, messages: Messages, decoding: Decoding) -> tuple[Prompt, Messages]:
        """A prompt that leaves room for the reply, and the messages that it is of."""
        if not self.plugin.messages_field:
            return fit_prompt(messages, self.backend, decoding), messages
        prompt, left_out = fit_conversation(messages, self.backend, decoding)
        first = int(messages[0]["role"] == "system")
        return prompt, [*messages[:first], *messages[first + left_out :]]

    def _measured(self, arguments: dict[str, Any], decoding: Decoding) -> dict[str, Any]:
        """Each passage learns how much of it the model can read: an equal share of the context
        without the words around it and without the reply. One that is left out stays None."""
        names = [field.name for field in self.plugin.fields if field.kind == "passage"]
        names = [name for name in names if arguments[name] is not None]
        if not names:
            return arguments
        short = dict.fromkeys(names, Passage("text", budget=sys.maxsize))
        steps = self.plugin.steps({**arguments, **short})
        asked: Any = next(steps)
        steps.close()
        frame = self.backend.render(asked[0] if _is_several(asked) else asked)
        room = prompt_room(self.backend, decoding) - len(frame)
        budget, measure = max(MARGIN, room // len(names) - MARGIN), self.backend.measure
        measured = {name: Passage(arguments[name], measure, budget) for name in names}
        return {**arguments, **measured}


@dataclass(frozen=True)
class _Step:
    """What a step's prompts came to."""

    replies: list[str]
    finish: Finish
    prompt_tokens: int
    completion_tokens: int


def _advance(steps: Steps, replies: list[str] | None) -> Messages | list[Messages] | None:
    """What a plugin asks next; None when it is done."""
    try:
        return steps.send(cast(Any, replies))
    except StopIteration:
        return None


def _is_several(asked: Messages | list[Messages]) -> bool:
    return bool(asked) and isinstance(asked[0], list)
