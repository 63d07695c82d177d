"""How many rows, tokens and places a step is computed with: any number, or one of a few."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

MOST_TOKENS = 512
"""The longest piece of a prompt that is read at once in a fixed shape."""
FEWEST_PLACES = 256
GROWTH = 4
"""The cache is looked at as far as 256 places, four times as many, and so on."""


@dataclass(frozen=True)
class Shapes:
    """Sizes from small to large; an empty tuple = every size.

    rows    running rows are filled up to the next of these with rows that are free
    tokens  a prompt is read in pieces of exactly these lengths, so that none is filled up: a
            recurrent body could not forget what it was filled with
    places  a cache is looked at as far as the next of these
    """

    rows: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    places: tuple[int, ...] = ()

    @classmethod
    def fixed(cls, slots: int, capacity: int, *, has_places: bool) -> Shapes:
        """For so many slots of so many tokens; a recurrent body has no places."""
        return cls(
            (*_powers(1, 2, slots), slots),
            tuple(_powers(1, 2, min(MOST_TOKENS + 1, max(capacity, 2)))),
            (*_powers(FEWEST_PLACES, GROWTH, capacity), capacity) if has_places else (),
        )

    def padded(self, rows: int) -> int:
        """With how many rows a step for so many is computed."""
        return self.rows[bisect_left(self.rows, rows)] if self.rows else rows

    def piece(self, tokens: int) -> int:
        """How many of so many tokens are read at once."""
        return self.tokens[bisect_right(self.tokens, tokens) - 1] if self.tokens else tokens

    def span(self, longest: int) -> int:
        """How far a cache is looked at where the longest row will have so many tokens; 0 where
        there are no places."""
        return self.places[bisect_left(self.places, longest)] if self.places else 0

    def spans(self, tokens: int) -> tuple[int, ...]:
        """Every span that a step by so many tokens may have."""
        return self.places[bisect_left(self.places, tokens) :] if self.places else (0,)


def _powers(first: int, factor: int, below: int) -> list[int]:
    sizes = []
    while first < below:
        sizes.append(first)
        first *= factor
    return sizes
