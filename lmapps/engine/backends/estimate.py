"""A text -> how many tokens it may have, where nobody here knows the tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lmapps.messages import Message

LETTERS_A_TOKEN = 3
"""Of the Latin alphabet. Vocabularies of today need a token for four to five letters of English."""
MARKERS = 8
"""Tokens of what a template writes around each message."""

_PIECES = re.compile(r"(?P<word>[A-Za-z]+)| |(?P<other>\s|.)", re.DOTALL)


def estimated_tokens(text: str) -> int:
    """Rather too many: a prompt that is called too long can be shortened, one that the server
    refuses stops everything.

    Three Latin letters of a word, or any other character but a space, are one token.
    """
    total = 0
    for piece in _PIECES.finditer(text):
        if piece["word"]:
            total += -(-len(piece["word"]) // LETTERS_A_TOKEN)
        elif piece["other"]:
            total += 1
    return total


def estimated_prompt(messages: Sequence[Message]) -> int:
    """Tokens of a conversation with what its template adds."""
    return sum(estimated_tokens(message["content"]) + MARKERS for message in messages) + MARKERS
