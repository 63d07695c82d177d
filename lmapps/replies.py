"""A whole reply -> a tidier one: what a plugin's `finish` can be."""

from __future__ import annotations

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

    A last line that closes a block which was never opened is cut off.
    """
    lone = re.fullmatch(r"(.*\S.*)^```\s*", reply, re.S | re.M)
    if lone and len(_FENCE.findall(reply)) == 1:
        return lone.group(1)
    block = re.search(r"^```[^\n]*\n(.*?)(?:^```|\Z)", reply, re.S | re.M)
    return block.group(1) if block else reply
