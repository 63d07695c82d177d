"""How a reply is to be made: what a tab holds when its button is pressed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from lmapps.decoding import Decoding
from lmapps.errors import LmappsError
from lmapps.plugin import Plugin
from lmapps.server.store.made import Made


@dataclass(frozen=True)
class Way:
    """The fields, how to sample, and what a person calls these."""

    fields: dict[str, Any]
    """Of a chat, those beside the conversation."""
    choose: Callable[[], Decoding]
    """The decoding. Raises `DecodingError` for a value that does not fit."""
    model: str | None = None
    """The name of the one that is asked; None = the default."""
    persona: str = ""
    preset: str = ""

    def made(self, plugin: Plugin) -> Made:
        """What is kept of it beside the reply."""
        try:
            decoding = changes(plugin.decoding, self.choose())
        except LmappsError:  # then there will be no reply
            decoding = {}
        fields = self.fields if plugin.messages_field else {}
        return Made(fields, self.persona, self.preset, decoding)


def changes(usual: Decoding, chosen: Decoding) -> dict[str, Any]:
    """The settings in which a decoding differs from the usual one."""
    names = [field.name for field in fields(Decoding)]
    return {n: getattr(chosen, n) for n in names if getattr(chosen, n) != getattr(usual, n)}


def changed(usual: Decoding, values: Mapping[str, Any]) -> Decoding:
    """A decoding with what was kept; without what does not fit any more."""
    for name, value in values.items():
        try:
            usual = usual.replace(**{name: value})
        except LmappsError:
            continue
    return usual
