"""Replies -> how they behave: whether they end by themselves, and do not go round in circles."""

from __future__ import annotations

from collections.abc import Sequence

from lmapps.engine.application import Done
from lmapps.words import words_of

RUN = 4
"""Words in a row that occur twice make a repetition."""


def conduct(replies: Sequence[Done]) -> dict[str, float]:
    """Shares of replies that ended before a limit cut them, and in which nothing is repeated."""
    if not replies:
        return {}
    return {
        "ended": sum(done.finish == "stop" for done in replies) / len(replies),
        "unrepeated": sum(not repeats(done.reply) for done in replies) / len(replies),
    }


def repeats(text: str) -> bool:
    """Whether any four words in a row occur twice, in any case of letters."""
    words = words_of(text)
    runs = [tuple(words[place : place + RUN]) for place in range(len(words) - RUN + 1)]
    return len(set(runs)) < len(runs)
