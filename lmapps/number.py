"""Numbers, with or without bounds: how a value of one is checked and filled in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from lmapps.errors import PluginError
from lmapps.kinds import Component, Kind
from lmapps.sentence import Sentence


@dataclass(frozen=True)
class Bounds:
    """The least and the greatest number: `Annotated[int, Bounds(1, 9)]`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise PluginError(f"Bounds go from a low to a high number, got {self}")


@dataclass(frozen=True)
class Number(Kind):
    name, written = "number", "float"
    whole: ClassVar[bool] = False

    bounds: Bounds | None = None

    def wanted(self) -> str:
        kind = Sentence("a whole number" if self.whole else "a number")
        if self.bounds is None:
            return kind
        return Sentence("{kind} {between}", kind=kind, between=self._between())

    def schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "integer" if self.whole else "number"}
        if self.bounds:
            schema |= {"minimum": self.bounds.low, "maximum": self.bounds.high}
        return schema

    def parse(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.unfit(value)
        try:
            number = int(value) if self.whole else float(value)
        except (OverflowError, ValueError):  # infinite, no number, or larger than any float
            raise self.unfit(value) from None
        if number != value or not (self.whole or math.isfinite(number)):
            raise self.unfit(value)
        if self.bounds and not self.bounds.low <= number <= self.bounds.high:
            raise self.unfit(value, self._between())
        return number

    def of_word(self, word: str) -> Any:
        for convert in (int, float):
            try:
                return convert(word)
            except ValueError:
                continue
        return word

    def probes(self) -> list[Any]:
        return [2, 3] if self.bounds is None else [self.bounds.low, self.bounds.high]

    def component(self) -> Component:
        if self.bounds is None and self.filled:  # Gradio's number box can't begin empty: it has 0
            return "Textbox", {"max_lines": 1, "placeholder": self.wanted()}
        if self.bounds is None:
            return "Number", {"precision": 0 if self.whole else None}
        low, high = self.bounds.low, self.bounds.high
        return "Slider", {"minimum": low, "maximum": high, "step": 1 if self.whole else None}

    def _between(self) -> str:
        assert self.bounds is not None
        low, high = self.bounds.low, self.bounds.high
        return Sentence("between {low:g} and {high:g}", low=low, high=high)


@dataclass(frozen=True)
class Integer(Number):
    name, written = "integer", "int"
    whole = True
