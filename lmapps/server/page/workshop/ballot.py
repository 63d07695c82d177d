"""Models and presets that were chosen -> the sides of a comparison, and what a vote is about."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from lmapps.errors import InputError
from lmapps.server.page.chat.saved import made_with
from lmapps.server.page.languages import word
from lmapps.server.page.live import View
from lmapps.server.page.presets import BALANCED, DECODING_PRESETS
from lmapps.server.page.workshop.runview import wide_table
from lmapps.server.store.made import Made
from lmapps.server.store.presets import Values
from lmapps.server.store.votes import Tally

MOST = 3
LETTERS = "ABC"
"""What sides are called while nobody may know which is which."""
WAYS = DECODING_PRESETS
"""Those that are there for everybody."""


@dataclass(frozen=True)
class Side:
    """A model, and how it is asked."""

    model: str
    way: str
    """The name of a preset."""
    values: Values
    """What it changes of the application's own settings."""

    @property
    def label(self) -> str:
        """As votes are kept and summed, for everybody to see: what a person saved is told by its
        settings, since the name is theirs alone."""
        if self.way in WAYS:
            return self.model if self.way == BALANCED else f"{self.model}, {self.way.lower()}"
        settings = [f"{name} = {value}" for name, value in self.values.items()]
        return ", ".join([self.model, *settings])


@dataclass(frozen=True)
class Shown:
    """What a comparison showed, in its order: what a vote is about."""

    sides: tuple[str, ...] = ()
    """The labels."""
    blind: bool = False
    open: bool = False
    """Whether there is a vote to be given."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """What was filled in."""
    replies: tuple[str, ...] = ()


def sides_of(
    names: Sequence[str], ways: Sequence[str], known: Mapping[str, Values], blind: bool
) -> list[Side]:
    """The models and how they are asked, in the order shown.

    known  every preset: what it changes of the application's own settings

    Raises `InputError` for fewer than two, for the same one twice, and for an unknown preset.
    """
    chosen = [(name, way) for name, way in zip(names, ways, strict=True) if name]
    if len(chosen) < 2:
        raise InputError(word("choose two models at least, or one with two presets"))
    for _, way in chosen:
        if way not in known:
            raise InputError(word("{name} is not saved any more: choose another", name=way))
    sides = [Side(name, way, known[way]) for name, way in chosen]
    if len({side.label for side in sides}) < len(sides):
        raise InputError(word("two sides are the same: choose another model or preset"))
    if blind:
        random.shuffle(sides)
    return sides


def took(side: View) -> str:
    """How quick it was."""
    parts = []
    if side.first_token is not None:
        parts.append(word("first token after {seconds} s", seconds=f"{side.first_token:.2f}"))
    if (speed := made_with(Made(), side).tokens_per_second) is not None:
        parts.append(word("{count} tokens a second", count=f"{speed:.0f}"))
    return " · ".join(parts)


def tally_html(tallies: Sequence[Tally]) -> str:
    """Everybody's votes on an application, as a table."""
    rows = {
        one.name: [str(one.won), str(one.tied), str(one.shown), f"{one.share:.0%}"]
        for one in tallies
    }
    if not rows:
        return ""
    title = str(word("Votes so far"))
    head = map(str, (word("Better"), word("Even"), word("Votes"), word("Share")))
    return f'<div class="run-view"><h4>{escape(title)}</h4>{wide_table(title, head, rows)}</div>'
