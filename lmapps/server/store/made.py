"""How a reply was made: what a person had set, what the model was, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import NoneType
from typing import Any

from lmapps.fields import Messages


@dataclass(frozen=True)
class Made:
    """Kept beside a reply as JSON, without what is not known."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of a chat, the fields beside the conversation: its persona."""
    persona: str = ""
    """The name under which the person had saved these fields."""
    preset: str = ""
    """The name of the decoding settings."""
    decoding: Mapping[str, Any] = field(default_factory=dict)
    """The settings that differed from the application's own."""
    model: str = ""
    prompt_tokens: int | None = None
    tokens: int | None = None
    """Of the reply."""
    first_token: float | None = None
    """Seconds from the request to the first text, waiting included."""
    seconds: float | None = None
    """From there to the end."""
    written: str | None = None
    """What the model wrote, where the application made something else of it."""
    asked: Messages | None = None
    """Of a form, what the model was given last; a chat's can be told from its turns."""

    @property
    def tokens_per_second(self) -> float | None:
        """Of all tokens but the first; None where that is not known."""
        if not self.seconds or not self.tokens or self.tokens < 2:
            return None
        return (self.tokens - 1) / self.seconds

    def as_data(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "", {})}


_TYPES: dict[str, tuple[type, ...]] = {
    "fields": (dict,), "decoding": (dict,), "persona": (str,), "preset": (str,), "model": (str,),
    "prompt_tokens": (int,), "tokens": (int,), "first_token": (int, float),
    "seconds": (int, float), "written": (str, NoneType), "asked": (list, NoneType),
}  # fmt: skip


def made_from(data: Any) -> Made:
    """What `as_data` made; of anything else, as much as fits."""
    values = data if isinstance(data, dict) else {}
    known = {item.name for item in fields(Made)}
    fit = {
        name: value
        for name, value in values.items()
        if name in known and type(value) in _TYPES[name]
    }
    return Made(**fit)
