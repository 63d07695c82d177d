"""A prompt that comes, and who waits already -> how long its reply may be, or why it is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lmapps.decoding import Decoding
from lmapps.engine.counts import Counts
from lmapps.engine.turns import User, owner_of, share
from lmapps.errors import Busy, DecodingError, InputError, PromptTooLong

LONGEST_PATIENCE = 60
"""The most seconds that somebody is told to wait before trying again."""


def longest_reply(
    prompt_ids: Sequence[int], decoding: Decoding, context: int, vocab_size: int
) -> int:
    """Tokens; a reply that would run out of the context is cut there. Raises `InputError`,
    `PromptTooLong` where no token fits after the prompt, and `DecodingError`."""
    if not prompt_ids:
        raise InputError("the prompt is empty: give at least one token")
    room = context - len(prompt_ids)
    if room < 1:
        raise PromptTooLong(
            "the prompt has {tokens} tokens, the model takes at most {most}: shorten it",
            tokens=len(prompt_ids),
            most=context - 1,
        )
    if decoding.logit_bias and decoding.logit_bias[-1][0] >= vocab_size:
        raise DecodingError(
            f"an id in logit_bias must be between 0 and {vocab_size - 1}, got "
            f"{decoding.logit_bias[-1][0]}"
        )
    return min(decoding.max_new_tokens, room)


def check_share(user: User, waiting: Iterable[User], places: int, patience: int) -> None:
    """Nobody fills a queue of so many places alone. Raises `Busy`."""
    if user is None:
        return
    mine = sum(owner_of(other) == owner_of(user) for other in waiting)
    if mine >= share(places):
        raise Busy(
            "{count} of your requests are waiting already: try again in a moment",
            patience,
            count=mine,
        )


def patience(waiting: int, counts: Counts) -> int:
    """Seconds in which about a quarter of those who wait will have had their turn."""
    seconds = waiting / 4 * counts.seconds_between_ends
    return min(LONGEST_PATIENCE, max(1, math.ceil(seconds)))
