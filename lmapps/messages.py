"""A conversation: its type, and how a value of it is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from lmapps.kinds import Kind


class Message(TypedDict):
    """One turn: role is "system", "user" or "assistant"."""

    role: str
    content: str


Messages = list[Message]
"""A conversation, oldest turn first."""

ROLES = ("system", "user", "assistant")
_TURN = 'made of {"role": "system", "user" or "assistant", "content": text}'


@dataclass(frozen=True)
class Conversation(Kind):
    name, written = "messages", "Messages"

    def wanted(self) -> str:
        return "a list of messages, or a text"

    def schema(self) -> dict[str, Any]:
        turn = {"role": {"type": "string", "enum": list(ROLES)}, "content": {"type": "string"}}
        items = {"type": "object", "properties": turn, "required": list(turn)}
        several = {"type": "array", "minItems": 1, "items": items}
        return {"anyOf": [several, {"type": "string", "pattern": r"\S"}]}

    def probes(self) -> list[Any]:
        first = {"role": "user", "content": "a text"}
        reply = {"role": "assistant", "content": "a reply"}
        return [[first], [first, reply, first]]

    def parse(self, value: Any) -> Messages:
        if isinstance(value, str) and value.strip():
            return [{"role": "user", "content": value}]
        if not isinstance(value, list) or not value:
            raise self.unfit(value)
        for turn in value:
            texts = isinstance(turn, dict) and isinstance(turn.get("content"), str)
            if not texts or turn.get("role") not in ROLES:
                raise self.unfit(turn, _TURN)
        return [{"role": turn["role"], "content": turn["content"]} for turn in value]
