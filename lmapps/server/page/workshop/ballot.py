"""Models and presets that were chosen -> the sides of a comparison, and what a vote is about."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lmapps.errors import InputError
from lmapps.server.page.chat.saved import made_with
from lmapps.server.page.languages import word
from lmapps.server.page.live import View
from lmapps.server.page.presets import BALANCED, DECODING_PRESETS
from lmapps.server.store.made import Made

MOST = 3
LETTERS = "ABC"
"""What sides are called while nobody may know which is which."""
WAYS = DECODING_PRESETS
"""What differs from an application's own settings."""


@dataclass(frozen=True)
class Shown:
    """What a comparison showed, in its order: what a vote is about."""

    sides: tuple[str, ...] = ()
    """A model and how it was asked."""
    blind: bool = False
    open: bool = False
    """Whether there is a vote to be given."""


def sides_of(names: Sequence[str], ways: Sequence[str], blind: bool) -> list[tuple[str, str]]:
    """The models and how they are asked, in the order shown. Raises `InputError` for fewer than
    two, and for the same one twice."""
    chosen = [(name, way) for name, way in zip(names, ways, strict=True) if name]
    if len(chosen) < 2:
        raise InputError(word("choose two models at least, or one with two presets"))
    if len(set(chosen)) < len(chosen):
        raise InputError(word("two sides are the same: choose another model or preset"))
    if blind:
        random.shuffle(chosen)
    return chosen


def label(model: str, way: str) -> str:
    """A side as votes are kept."""
    return model if way == BALANCED else f"{model}, {way.lower()}"


def took(side: View) -> str:
    """How quick it was."""
    parts = []
    if side.first_token is not None:
        parts.append(word("first token after {seconds} s", seconds=f"{side.first_token:.2f}"))
    if (speed := made_with(Made(), side).tokens_per_second) is not None:
        parts.append(word("{count} tokens a second", count=f"{speed:.0f}"))
    return " · ".join(parts)
