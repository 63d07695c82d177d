"""A long text and the host's measure of it -> pieces that fit the model's context."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

Measure = Callable[[str], int]


def words(text: str) -> int:
    """The measure where no model is there, as in a plugin's own tests."""
    return len(text.split())


class Passage(str):
    """A long text that a person typed, pasted or gave as a file.

    It is a `str`. The host adds how long a text may be for its model, so that `parts()` cuts
    without the plugin seeing a tokenizer.
    """

    measure: Measure
    budget: int

    def __new__(cls, text: str = "", measure: Measure = words, budget: int = 300) -> Passage:
        passage = super().__new__(cls, text)
        passage.measure, passage.budget = measure, budget
        return passage

    @property
    def fits(self) -> bool:
        """Whether the model can read the whole text at once."""
        return self.measure(self) <= self.budget

    def with_text(self, text: str) -> Passage:
        """Another text under the same measure."""
        return Passage(text, self.measure, self.budget)

    def parts(self) -> list[Passage]:
        """Pieces of at most `budget`, in order, that join to the whole text.

        They are cut at the ends of paragraphs, else of sentences, words or, at last, anywhere.
        """
        parts: list[list[str]] = []
        room = -1
        for piece in self._pieces(self, 0):
            size = self.measure(piece)
            if size > room:
                parts.append([])
                room = self.budget
            parts[-1].append(piece)
            room -= size  # pieces measured one by one: joined, they are hardly ever longer
        return [self.with_text("".join(pieces)) for pieces in parts]

    def _pieces(self, text: str, level: int) -> Iterator[str]:
        """Pieces that fit, each as long as its cut allows."""
        if self.measure(text) <= self.budget or len(text) < 2:
            yield text
            return
        if level == len(_CUTS):
            middle = len(text) // 2
            smaller = [text[:middle], text[middle:]]
        else:
            smaller = [piece for piece in _CUTS[level].split(text) if piece]
            level += 1
        for piece in smaller:
            yield from self._pieces(piece, level)


# After a blank line; after a sentence's end (Chinese ones need no space); before a space.
_CUTS = [
    re.compile(r"(?<=\n\n)"),
    re.compile(r"(?<=[.!?…]\s)|(?<=[。！？])|(?<=\n)"),
    re.compile(r"(?=\s)"),
]
