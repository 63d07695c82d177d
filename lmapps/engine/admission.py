"""A prompt that comes, and who waits already -> how long its reply may be, or why it is refused."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lmapps.decoding import Decoding
from lmapps.engine.counts import Counts
from lmapps.engine.turns import User, owner_of, share
from lmapps.errors import Busy, DecodingError, InputError, PromptTooLong
from lmapps.sentence import Sentence

LONGEST_PATIENCE = 60
"""The most seconds that somebody is told to wait before trying again."""


@dataclass(frozen=True)
class Lengths:
    """The most tokens that a server takes as a prompt and gives as a reply, however many the
    model's context has."""

    prompt: int = sys.maxsize
    reply: int = sys.maxsize

    def check_prompt(self, tokens: int, room: int) -> None:
        """Raises `PromptTooLong`. room  what the context has for it"""
        if tokens > min(self.prompt, room):
            raise PromptTooLong(
                "the prompt has {tokens} tokens, this server takes at most {most}: shorten it"
                if self.prompt < room
                else "the prompt has {tokens} tokens, the model takes at most {most} beside its "
                "reply: shorten it",
                tokens=tokens,
                most=min(self.prompt, room),
            )


ANY = Lengths()
"""The context alone counts."""


def longest_reply(
    prompt_ids: Sequence[int], decoding: Decoding, context: int, vocab_size: int, lengths: Lengths
) -> int:
    """Tokens; a reply is cut where it would run out of the context, or of what a server gives.
    Raises `InputError`, `PromptTooLong` where no token fits after the prompt, and `DecodingError`.
    """
    if not prompt_ids:
        raise InputError("the prompt is empty: give at least one token")
    lengths.check_prompt(len(prompt_ids), context - 1)
    if decoding.logit_bias and decoding.logit_bias[-1][0] >= vocab_size:
        raise DecodingError(
            f"an id in logit_bias must be between 0 and {vocab_size - 1}, got "
            f"{decoding.logit_bias[-1][0]}"
        )
    return min(decoding.max_new_tokens, lengths.reply, context - len(prompt_ids))


def admit(
    reason: str | None,
    user: User,
    waiting: Iterable[User],
    places: int,
    counts: Counts,
    patience: int = 1,
) -> None:
    """Count one more request, or one that is refused: for that reason, or as nobody fills a queue
    of so many places alone. Raises `Busy`."""
    mine = sum(owner_of(other) == owner_of(user) for other in waiting)
    if not reason and user is not None and mine >= share(places):
        reason = Sentence(
            "{count} of your requests are waiting already: try again in a moment", count=mine
        )
    if reason:
        counts.refused += 1
        raise Busy(reason, patience)
    counts.accepted += 1


def patience(waiting: int, counts: Counts) -> int:
    """Seconds in which about a quarter of those who wait will have had their turn."""
    seconds = waiting / 4 * counts.seconds_between_ends
    return min(LONGEST_PATIENCE, max(1, math.ceil(seconds)))
