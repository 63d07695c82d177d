"""Numbers a person chose -> `Decoding`: how the next token is picked, validated once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from lmapps.errors import DecodingError


@dataclass(frozen=True)
class Decoding:
    """How the engine turns logits into the next token.

    Filters apply in the order of the fields: penalties, temperature, top-k, top-p, min-p.
    A value outside its range raises `DecodingError`.
    """

    temperature: float = 0.8
    """0 = greedy: always the most probable token. Up to 2; higher is more surprising."""
    top_k: int = 0
    """Keep only the k most probable tokens; 0 = all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probability reaches p (nucleus sampling)."""
    min_p: float = 0.0
    """Drop tokens less probable than this share of the most probable one."""
    repetition_penalty: float = 1.0
    """Divide (or, below zero, multiply) the logits of tokens already seen; 1 = off."""
    presence_penalty: float = 0.0
    """Subtract this once from the logit of each token already generated."""
    frequency_penalty: float = 0.0
    """Subtract this from a token's logit for each time it was generated."""
    no_repeat_ngram: int = 0
    """Never generate the same run of this many tokens twice in a reply; 0 = off."""
    max_new_tokens: int = 256
    """The longest reply, in tokens."""
    stop: tuple[str, ...] = ()
    """The reply ends before the first of these strings."""
    seed: int | None = None
    """The same seed gives the same text; None = a new one for each request."""

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, 0, 2)
        _integer("top_k", self.top_k, 0, 1_000_000)
        _number("top_p", self.top_p, 0, 1, open_below=True)
        _number("min_p", self.min_p, 0, 1)
        _number("repetition_penalty", self.repetition_penalty, 0.1, 10)
        _number("presence_penalty", self.presence_penalty, -2, 2)
        _number("frequency_penalty", self.frequency_penalty, -2, 2)
        _integer("no_repeat_ngram", self.no_repeat_ngram, 0, 64)
        _integer("max_new_tokens", self.max_new_tokens, 1, 1_000_000)
        if self.seed is not None:
            _integer("seed", self.seed, 0, 2**63 - 1)
        object.__setattr__(self, "stop", _stop_strings(self.stop))

    def replace(self, **changes: Any) -> Decoding:
        """A copy with some values changed; an unknown name raises `DecodingError`."""
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                raise DecodingError(f"unknown decoding setting {name!r}; known: {', '.join(known)}")
        return replace(self, **changes)


def _number(name: str, value: object, low: float, high: float, *, open_below: bool = False) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    above_low = not (open_below and value == low)
    if is_number and math.isfinite(value) and low <= value <= high and above_low:  # type: ignore
        return
    words = f"above {low:g} and at most {high:g}" if open_below else f"between {low:g} and {high:g}"
    raise DecodingError(f"{name} must be {words}, got {value!r}")


def _integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return
    raise DecodingError(f"{name} must be a whole number between {low} and {high}, got {value!r}")


def _stop_strings(stop: object) -> tuple[str, ...]:
    """One string or several -> a tuple of non-empty strings."""
    strings = (stop,) if isinstance(stop, str) else stop
    if isinstance(strings, Iterable):
        strings = tuple(strings)
        if all(isinstance(string, str) and string for string in strings):
            return strings
    raise DecodingError(f"stop must be a text or a list of texts, none of them empty, got {stop!r}")
