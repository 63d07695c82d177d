"""Conversations -> prompts that leave room for a reply: what happens when it overflows."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from lmapps.decoding import Decoding
from lmapps.engine.admission import Lengths
from lmapps.messages import Message

T = TypeVar("T")
SHORT = 4000
"""Characters that are read within a millisecond."""


async def cut(read: Callable[[], T], length: int) -> T:
    """What `read` makes of a text of so many characters. A long one takes long: the event loop
    goes on meanwhile. With a short one a thread costs more, and who asks would wait for it."""
    return read() if length <= SHORT else await asyncio.to_thread(read)


def length_of(messages: Sequence[Message]) -> int:
    """The characters of a conversation."""
    return sum(len(str(message.get("content"))) for message in messages)


class Reader(Protocol):
    """What reads conversations, as far as it matters here."""

    @property
    def context(self) -> int: ...

    @property
    def lengths(self) -> Lengths: ...

    def render(self, messages: Sequence[Message]) -> Any: ...


def prompt_room(reader: Reader, decoding: Decoding) -> int:
    """The most tokens of a prompt. Kept free for the reply are as many as it may have, at most a
    quarter of the context."""
    return min(reader.lengths.prompt, _room(reader, decoding))


def _room(reader: Reader, decoding: Decoding) -> int:
    """What the context has for the prompt."""
    reply = min(decoding.max_new_tokens, reader.lengths.reply, reader.context // 4)
    return reader.context - reply


def fit_prompt(messages: Sequence[Message], reader: Reader, decoding: Decoding) -> Any:
    """The prompt of a conversation. Raises `PromptTooLong` with the length and the limit."""
    prompt = reader.render(messages)
    reader.lengths.check_prompt(len(prompt), _room(reader, decoding))
    return prompt


def fit_conversation(
    messages: Sequence[Message], reader: Reader, decoding: Decoding
) -> tuple[Any, int]:
    """The prompt of a conversation, and how many of its oldest messages were left out to fit.

    The system prompt stays, and what is left begins with a turn of the user's. Raises
    `PromptTooLong` where the last message alone does not fit.
    """
    limit = prompt_room(reader, decoding)
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = list(messages[len(system) :])
    starts = [number for number, turn in enumerate(turns) if turn["role"] == "user"]
    starts = starts or [0]
    candidates = starts if starts[0] == 0 else [0, *starts]

    def fits(start: int) -> bool:
        return len(reader.render([*system, *turns[start:]])) <= limit

    # The fewer turns, the shorter: halve instead of trying each. The last start is not tried.
    place = bisect_left(candidates[:-1], True, key=fits)
    start = candidates[place]
    return fit_prompt([*system, *turns[start:]], reader, decoding), start
