"""A type -> `Kind`: how a value of it is described, checked and filled in. The one table for that.

The component of the page, the JSON schema, the option of the command line and the words of an
error are all read from the kind; `parse` takes exactly what `schema` describes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from lmapps.passage import Passage
from lmapps.sentence import Sentence

Component = tuple[str, dict[str, Any]]
"""The name of a Gradio component, and the options that differ from its usual ones."""


class Unfit(Exception):
    """What is wrong with a value: the rest of a sentence that begins with its name."""


@dataclass(frozen=True)
class Kind:
    """What can be filled in, or replied."""

    name: ClassVar[str]
    written: ClassVar[str]
    """How an author writes it."""
    repeats: ClassVar[bool] = False
    """Whether the command line takes several words."""

    filled: bool = False
    """Whether an empty value is refused."""

    def wanted(self) -> str:
        """What a value must be, in words."""
        raise NotImplementedError

    def schema(self) -> dict[str, Any]:
        """JSON schema of a value."""
        raise NotImplementedError

    def parse(self, value: Any) -> Any:
        """A value from JSON or a form, checked and converted. Raises `Unfit`."""
        raise NotImplementedError

    def of_word(self, word: str) -> Any:
        """A word of the command line -> a value for `parse`."""
        return word

    def component(self) -> Component:
        """What fills it in on the page."""
        raise NotImplementedError

    def words(self) -> tuple[str, ...]:
        """The texts that a form shows of it."""
        return ()

    def probes(self) -> list[Any]:
        """Values that between them bring out what a prompt makes of this kind."""
        return ["a text", ""][: 1 if self.filled else 2]

    def unfit(self, value: Any, wanted: str = "") -> Unfit:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else shown[:60] + "..."
        wanted = wanted or self.wanted()
        return Unfit(Sentence("must be {wanted}, got {value}", wanted=wanted, value=shown))


@dataclass(frozen=True)
class Line(Kind):
    name, written = "line", "str"

    def wanted(self) -> str:
        return Sentence("text")

    def schema(self) -> dict[str, Any]:
        return {"type": "string"} | ({"pattern": r"\S"} if self.filled else {})

    def parse(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self.unfit(value)
        if self.filled and not re.search(r"\S", value):
            raise Unfit(Sentence("is empty: fill it in"))
        return value

    def component(self) -> Component:
        return "Textbox", {"max_lines": 4}


@dataclass(frozen=True)
class LongText(Line):
    name, written = "passage", "Passage"

    def parse(self, value: Any) -> Passage:
        text = super().parse(value)
        return text if isinstance(text, Passage) else Passage(text)

    def component(self) -> Component:
        return "Textbox", {"lines": 8, "max_lines": 20}


@dataclass(frozen=True)
class Choice(Kind):
    name, written = "choice", "Literal of texts"

    choices: tuple[str, ...] = ()

    def wanted(self) -> str:
        return Sentence("one of {choices}", choices=", ".join(map(repr, self.choices)))

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.choices)}

    def parse(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.choices:
            raise self.unfit(value)
        return value

    def words(self) -> tuple[str, ...]:
        return self.choices

    def probes(self) -> list[Any]:
        return list(self.choices)

    def component(self) -> Component:
        return "Dropdown", {"choices": list(self.choices)}


@dataclass(frozen=True)
class Choices(Kind):
    name, written, repeats = "choices", "list of a Literal", True

    choices: tuple[str, ...] = ()

    def wanted(self) -> str:
        return Sentence("different ones of {choices}", choices=", ".join(map(repr, self.choices)))

    def schema(self) -> dict[str, Any]:
        items = {"type": "string", "enum": list(self.choices)}
        least = {"minItems": 1} if self.filled else {}
        return {"type": "array", "items": items, "uniqueItems": True} | least

    def parse(self, value: Any) -> list[str]:
        """In the order of the type, so that the order of ticking does not change the prompt."""
        known = isinstance(value, list) and all(
            isinstance(item, str) and item in self.choices for item in value
        )
        if not known or len(set(value)) < len(value):
            raise self.unfit(value)
        if self.filled and not value:
            raise Unfit(Sentence("is empty: choose at least one"))
        return [choice for choice in self.choices if choice in value]

    def words(self) -> tuple[str, ...]:
        return self.choices

    def probes(self) -> list[Any]:
        return [list(self.choices), *([choice] for choice in self.choices)]

    def component(self) -> Component:
        return "CheckboxGroup", {"choices": list(self.choices)}


@dataclass(frozen=True)
class Flag(Kind):
    name, written = "flag", "bool"

    def wanted(self) -> str:
        return Sentence("true or false")

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}

    def parse(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise self.unfit(value)
        return value

    def of_word(self, word: str) -> Any:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        return words.get(word.lower(), word)

    def probes(self) -> list[Any]:
        return [True, False]

    def component(self) -> Component:
        return "Checkbox", {}


@dataclass(frozen=True)
class Maybe(Kind):
    """Another kind, or nothing. A blank text and an empty choice are nothing too."""

    written = "one of these or None"

    inner: Kind = Line()

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.inner.name

    @property
    def repeats(self) -> bool:  # type: ignore[override]
        return self.inner.repeats

    def wanted(self) -> str:
        return Sentence("{wanted}, or nothing", wanted=self.inner.wanted())

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.inner.schema(), {"type": "null"}]}

    def parse(self, value: Any) -> Any:
        parsed = None if value is None else self.inner.parse(value)
        is_empty = parsed == [] or (isinstance(parsed, str) and not parsed.strip())
        return None if is_empty else parsed

    def of_word(self, word: str) -> Any:
        return self.inner.of_word(word) if word else None

    def words(self) -> tuple[str, ...]:
        return self.inner.words()

    def probes(self) -> list[Any]:
        return [*self.inner.probes(), None]

    def component(self) -> Component:
        """As the inner one, but for those that always have a value: they get a way to have none."""
        name, options = self.inner.component()
        match name:
            case "Slider" | "Number":
                return "Textbox", {"max_lines": 1, "placeholder": self.inner.wanted()}
            case "Checkbox":
                return "Dropdown", {"choices": ["", ("yes", True), ("no", False)]}
            case "Dropdown":
                return "Dropdown", {"choices": ["", *options["choices"]]}
        return name, options
