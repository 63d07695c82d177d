"""A text -> its words, in any script: each Chinese or Japanese character is one."""

from __future__ import annotations

import re

_WORD = re.compile(r"[一-鿿぀-ヿ]|[^\W_一-鿿぀-ヿ]+")


def words_of(text: str) -> list[str]:
    """In small letters, without what stands between them."""
    return _WORD.findall(text.lower())
