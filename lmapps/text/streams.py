"""Ids, one at a time -> their text, as soon as it is whole."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Callable, Sequence
from typing import Protocol

_Utf8 = getincrementaldecoder("utf-8")


class TextStream(Protocol):
    """The text of one reply."""

    def step(self, token_id: int) -> str:
        """The text that this id completes; "" in the middle of a character."""


class ByteStream:
    """For a tokenizer whose ids write the same bytes wherever they stand: a look at a table, where
    decoding ids again takes some twenty times as long.

    pieces  the bytes of each id, (V,)
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._decode = _Utf8("replace").decode

    def step(self, token_id: int) -> str:
        return self._decode(self._pieces[token_id])


class RereadStream:
    """For any other: an id is decoded behind the ids of the text before it, since a tokenizer may
    write the first one of a text in another way. (The library's own stream fails on bytes that are
    no UTF-8.)

    decode  ids to their text
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._shown: list[int] = []
        """The ids of the piece of text that was given out last."""
        self._length = 0
        """How many characters these have by themselves."""
        self._new: list[int] = []

    def step(self, token_id: int) -> str:
        self._new.append(token_id)
        now = self._decode([*self._shown, *self._new])
        if now.endswith("\ufffd") or len(now) <= self._length:
            return ""
        text = now[self._length :]
        self._shown, self._new = self._new, []
        self._length = len(self._decode(self._shown))
        return text
