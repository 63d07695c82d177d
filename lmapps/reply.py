"""What a plugin replies -> `ReplyForm`: how it is generated, parsed, described and shown.

`@plugin(reply=...)`       the model writes           the value
nothing                    Markdown                   the text
`Code("python")`           code, in a fence or not    the code alone
`Literal["yes", "no"]`     one of the texts           the text
a dataclass                JSON of its fields         an instance

The last two hold the model to their form: it can write nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, ClassVar, Union, get_args, get_origin

from lmapps.decoding import Decoding
from lmapps.errors import PluginError, ReplyError
from lmapps.fields import hints_of, kind_of
from lmapps.kinds import Choice, Component, Flag, Kind, Line, LongText, Maybe, Unfit
from lmapps.number import Number
from lmapps.replies import code_of
from lmapps.sentence import Sentence


@dataclass(frozen=True)
class Code:
    """A reply that is code in this language, for highlighting and for the name of its file."""

    language: str = "python"


class ReplyForm:
    """Text in Markdown, and the base of the others."""

    streams: ClassVar[bool] = True
    """Whether a part of it can be shown already."""
    finish: Callable[[str], str] = staticmethod(str.strip)
    """What tidies a reply where the plugin has no `finish` of its own."""

    def hold(self, decoding: Decoding) -> Decoding:
        """The decoding with which the model writes in this form."""
        return decoding

    def parse(self, text: str) -> Any:
        """A whole reply -> its value. Raises `ReplyError` for one that has not this form."""
        return text

    def text_of(self, value: Any) -> str:
        """A value from a data set -> the text that the model is to write."""
        return str(value)

    def schema(self) -> dict[str, Any]:
        """JSON schema of the value."""
        return {"type": "string"}

    def component(self) -> Component:
        """What shows it on the page."""
        return "Markdown", {
            "container": True, "min_height": 200, "buttons": ["copy"], "line_breaks": True
        }  # fmt: skip

    def shown(self, text: str, value: Any) -> Any:
        """What the component is given: a part of the text, or, at the end, the value too."""
        return text


@dataclass(frozen=True)
class CodeForm(ReplyForm):
    """Code: without its fence."""

    language: str
    finish = staticmethod(lambda text: code_of(text).strip())

    def component(self) -> Component:
        language = self.language.lower()
        known = language if language in _HIGHLIGHTED else None
        options = {"language": known, "lines": 8, "max_lines": 24, "interactive": False}
        return "Code", {**options, "label": self.language, "buttons": ["copy", "download"]}

    def shown(self, text: str, value: Any) -> str:
        return value if value is not None else re.sub(r"^```[^\n]*\Z", "", code_of(text))


@dataclass(frozen=True)
class ChoiceForm(ReplyForm):
    """One of several texts."""

    kind: Choice
    streams = False

    def hold(self, decoding: Decoding) -> Decoding:
        return _free(decoding).replace(regex="|".join(map(re.escape, self.kind.choices)))

    def parse(self, text: str) -> str:
        return str(_parsed(self.kind, text, text))

    def text_of(self, value: Any) -> str:
        return self.parse(value)

    def schema(self) -> dict[str, Any]:
        return self.kind.schema()

    def component(self) -> Component:
        return "Label", {"show_label": False}

    def shown(self, text: str, value: Any) -> Any:
        return value


@dataclass(frozen=True)
class RecordForm(ReplyForm):
    """JSON of a dataclass."""

    kind: Record
    streams = False

    def hold(self, decoding: Decoding) -> Decoding:
        return _free(decoding).replace(json_schema=json.dumps(self.schema(), ensure_ascii=False))

    def parse(self, text: str) -> Any:
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            raise ReplyError("the reply is not whole JSON: {text!r}", text=text[:60]) from None
        return _parsed(self.kind, values, text)

    def text_of(self, value: Any) -> str:
        values = asdict(value) if isinstance(value, self.kind.made) else value
        return json.dumps(asdict(_parsed(self.kind, values, str(value))), ensure_ascii=False)

    def schema(self) -> dict[str, Any]:
        return self.kind.schema()

    def component(self) -> Component:
        return "JSON", {"show_label": False, "open": True, "buttons": ["copy"]}

    def shown(self, text: str, value: Any) -> Any:
        return None if value is None else asdict(value)


@dataclass(frozen=True)
class Items(Kind):
    """Any number of values of one kind."""

    name, written = "items", "list of one of these"

    item: Kind = field(default_factory=Line)

    def wanted(self) -> str:
        return Sentence("a list of {wanted}", wanted=self.item.wanted())

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.item.schema()}

    def parse(self, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise self.unfit(value)
        return [self.item.parse(item) for item in value]


@dataclass(frozen=True)
class Record(Kind):
    """A dataclass: an object with all of its fields."""

    name, written = "record", "dataclass"

    made: type[Any] = object
    kinds: tuple[tuple[str, Kind], ...] = ()

    def wanted(self) -> str:
        names = ", ".join(name for name, _ in self.kinds)
        return Sentence("an object with {names}", names=names)

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {name: kind.schema() for name, kind in self.kinds},
            "required": [name for name, _ in self.kinds],
            "additionalProperties": False,
        }

    def parse(self, value: Any) -> Any:
        if not isinstance(value, dict) or value.keys() != {name for name, _ in self.kinds}:
            raise self.unfit(value)
        parsed = {}
        for name, kind in self.kinds:
            try:
                parsed[name] = kind.parse(value[name])
            except Unfit as error:
                raise Unfit(Sentence("{name} {error}", name=name, error=error)) from None
        try:
            return self.made(**parsed)
        except Exception as error:  # the author's __post_init__: a plugin boundary
            why = f"{type(error).__name__}: {error}"
            name = self.made.__name__
            raise Unfit(Sentence("is refused by {name}: {why}", name=name, why=why)) from None


def reply_form(reply: Any) -> ReplyForm:
    """The form of what `@plugin(reply=...)` names. Raises `PluginError` for anything else."""
    if reply is None or reply is str:
        return ReplyForm()
    if reply is Code:
        reply = Code()
    if isinstance(reply, Code) and isinstance(reply.language, str):
        return CodeForm(reply.language)
    kind = _kind(reply)
    if isinstance(kind, Choice):
        for choice in kind.choices:
            if choice != choice.strip() or not choice:
                raise PluginError(
                    f"reply has the text {choice!r}, but a reply loses the white space around it: "
                    "write each text without, and none that is empty"
                )
        return ChoiceForm(kind)
    if isinstance(kind, Record):
        return RecordForm(kind)
    raise PluginError(
        f"reply must be a Literal of texts, a dataclass or Code(language), got {reply!r}"
    )


def _kind(annotation: Any) -> Kind | None:
    """The kind of a type that can be in a reply; None where it can't."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and is_dataclass(annotation):
        hints = hints_of(annotation)
        named = [(part.name, _kind(hints[part.name])) for part in fields(annotation)]
        for name, kind in named:
            if kind is None:
                raise PluginError(
                    f"{annotation.__name__}.{name} cannot be in a reply: annotate it with str, "
                    "Literal of texts, bool, int, float, a dataclass, a list of one of these, or "
                    "one of these or None"
                )
        return Record(made=annotation, kinds=tuple(named))  # type: ignore[arg-type]
    if origin is list and parts:
        item = _kind(parts[0])
        return Items(item=item) if item else None
    if origin in (Union, UnionType) and len(parts) == 2 and NoneType in parts:
        inner = _kind(next(part for part in parts if part is not NoneType))
        return Maybe(inner=inner) if inner else None
    kind = kind_of(annotation)
    usable = isinstance(kind, Line | Choice | Flag | Number) and not isinstance(kind, LongText)
    return kind if usable else None


def _parsed(kind: Kind, value: Any, text: str) -> Any:
    try:
        return kind.parse(value)
    except Unfit as error:
        raise ReplyError("the reply {error}", error=error) from None


def _free(decoding: Decoding) -> Decoding:
    """Without what would forbid the repeated words and marks of a form."""
    return decoding.replace(
        no_repeat_ngram=0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0,
        stop=(),
    )  # fmt: skip


_HIGHLIGHTED = (
    "python", "c", "cpp", "markdown", "latex", "json", "html", "css", "javascript", "jinja2",
    "typescript", "yaml", "dockerfile", "shell", "r", "sql",
)  # fmt: skip
"""What Gradio's code box knows."""
