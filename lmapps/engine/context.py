"""Conversations -> prompt ids that leave room for a reply: what happens when it overflows."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from lmapps.decoding import Decoding
from lmapps.errors import PromptTooLong
from lmapps.fields import Message
from lmapps.text.template import Template


def reply_room(context: int, decoding: Decoding) -> int:
    """Tokens kept free for the reply: as many as were asked for, at most a quarter."""
    return min(decoding.max_new_tokens, context // 4)


def fit_prompt(
    messages: Sequence[Message], template: Template, context: int, decoding: Decoding
) -> list[int]:
    """Ids of a prompt. Raises `PromptTooLong` with the length and the limit."""
    ids = template.prompt_ids(messages)
    limit = context - reply_room(context, decoding)
    if len(ids) > limit:
        raise PromptTooLong(
            f"the prompt has {len(ids)} tokens, the model takes at most {limit} beside its reply: "
            "shorten it"
        )
    return ids


def fit_conversation(
    messages: Sequence[Message], template: Template, context: int, decoding: Decoding
) -> tuple[list[int], int]:
    """Ids of a conversation, and how many of its oldest messages were left out to fit.

    The system prompt stays, and what is left begins with a turn of the user's. Raises
    `PromptTooLong` where the last message alone does not fit.
    """
    limit = context - reply_room(context, decoding)
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = list(messages[len(system) :])
    starts = [number for number, turn in enumerate(turns) if turn["role"] == "user"]
    starts = starts or [0]
    candidates = starts if starts[0] == 0 else [0, *starts]

    def fits(start: int) -> bool:
        return len(template.prompt_ids([*system, *turns[start:]])) <= limit

    # The fewer turns, the shorter: halve instead of trying each. The last start is not tried.
    place = bisect_left(candidates[:-1], True, key=fits)
    start = candidates[place]
    return fit_prompt([*system, *turns[start:]], template, context, decoding), start
