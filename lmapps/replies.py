"""A whole reply -> a tidier one: what a plugin's `finish` can be."""

from __future__ import annotations

import ast
import re

_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s|$)|[。！？][”’」』）]*")
_FENCE = re.compile(r"^```", re.M)


def whole_sentences(reply: str) -> str:
    """Without the unfinished sentence at the end; as it is where no sentence ends at all."""
    ends = [match.end() for match in _SENTENCE_END.finditer(reply)]
    return reply[: ends[-1]].strip() if ends else reply.strip()


def code_block(reply: str) -> str:
    """As a Markdown code block: fences are added where there are none, and closed where open."""
    reply = reply.strip()
    fences = len(_FENCE.findall(reply))
    if not fences:
        return f"```\n{reply}\n```"
    return reply + "\n```" if fences % 2 else reply


def code_of(reply: str) -> str:
    """The text inside the first code block, or the whole reply where there is none.

    A block that is closed and was never opened begins where the reply does; so does one with an
    explanation after it, where what stands before is Python.
    """
    lone = re.fullmatch(r"(.*\S.*?)^```[ \t]*$(.*)", reply, re.S | re.M)
    if lone and len(_FENCE.findall(reply)) == 1 and (not lone[2].strip() or _is_code(lone[1])):
        return lone[1]
    block = re.search(r"^```[^\n]*\n(.*?)(?:^```|\Z)", reply, re.S | re.M)
    return block.group(1) if block else reply


def _is_code(text: str) -> bool:
    """Whether it is Python, and not just words that would be names."""
    try:
        return any(not isinstance(part, ast.Expr) for part in ast.parse(text).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
