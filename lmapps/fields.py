"""The signature of a function -> fields: what a person can fill in, checked and described once.

Annotation        field                              a value from a form, JSON or the command line
`str`             line       one line                text
`Passage`         passage    a tall box, or a file   text
`Literal[...]`    choice     a list                  one of the texts
`bool`            flag       a checkbox              true or false
`int`, `float`    integer, number; with `Annotated[int, Bounds(1, 9)]` a slider
`Messages`        messages   a conversation          [{"role": ..., "content": ...}, ...]
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict, get_args, get_origin, get_type_hints

from lmapps.errors import FieldError, PluginError
from lmapps.passage import Passage

Kind = Literal["line", "passage", "choice", "flag", "integer", "number", "messages"]


class Message(TypedDict):
    """One turn: role is "system", "user" or "assistant"."""

    role: str
    content: str


Messages = list[Message]
"""A conversation, oldest turn first."""

RESERVED = ("checkpoint", "decoding", "stream")
"""Names that requests and commands use beside the fields of a plugin."""

REQUIRED = inspect.Parameter.empty
"""The default of a field that has none."""


@dataclass(frozen=True)
class Bounds:
    """The least and the greatest number: `Annotated[int, Bounds(1, 9)]`."""

    low: float
    high: float


@dataclass(frozen=True)
class Field:
    """One thing that a person fills in."""

    name: str
    kind: Kind
    default: Any = REQUIRED
    choices: tuple[str, ...] = ()
    bounds: Bounds | None = None

    @property
    def label(self) -> str:
        """The name as words: `max_words` -> "Max words"."""
        return self.name.replace("_", " ").strip().capitalize()

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    def parse(self, value: Any) -> Any:
        """A value from outside, checked and converted. Raises `FieldError`."""
        return _PARSERS[self.kind](self, value)

    def schema(self) -> dict[str, Any]:
        """JSON schema of the value."""
        schema: dict[str, Any] = {"type": _JSON_TYPES[self.kind], "title": self.label}
        if self.kind == "choice":
            schema["enum"] = list(self.choices)
        if self.kind == "messages":
            turn = {"role": {"type": "string"}, "content": {"type": "string"}}
            schema["items"] = {"type": "object", "properties": turn, "required": list(turn)}
        if self.bounds:
            schema |= {"minimum": self.bounds.low, "maximum": self.bounds.high}
        if not self.required:
            schema["default"] = self.default
        return schema

    def wrong(self, wanted: str, value: Any) -> FieldError:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else shown[:60] + "..."
        return FieldError(f"{self.name} must be {wanted}, got {shown}")


def fields_of(function: Callable[..., Any]) -> tuple[Field, ...]:
    """The fields of a function's signature. Raises `PluginError` for one without a widget."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise PluginError(f"an annotation of {function.__name__} is unknown: {error}") from None
    return tuple(
        _field(parameter, hints.get(parameter.name))
        for parameter in inspect.signature(function).parameters.values()
    )


def _field(parameter: inspect.Parameter, annotation: Any) -> Field:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise PluginError(f"{parameter} takes any number of values: name each field instead")
    if parameter.name in RESERVED:
        raise PluginError(f"the name {parameter.name!r} is taken by lmapps: rename the field")
    bounds = None
    if get_origin(annotation) is Annotated:
        annotation, *extras = get_args(annotation)
        bounds = next((extra for extra in extras if isinstance(extra, Bounds)), None)
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    kind = "choice" if choices else _kind(annotation)
    if kind is None or not all(isinstance(choice, str) for choice in choices):
        raise PluginError(
            f"field {parameter.name!r} has no widget for {annotation!r}: annotate it with str, "
            "Passage, Literal of texts, bool, int, float or Messages"
        )
    field = Field(parameter.name, kind, parameter.default, choices, bounds)
    if not field.required:
        try:
            field.parse(field.default)
        except FieldError as error:
            raise PluginError(f"the default of a field does not fit: {error}") from None
    return field


def _kind(annotation: Any) -> Kind | None:
    kinds: list[tuple[Any, Kind]] = [
        (str, "line"), (Passage, "passage"), (bool, "flag"), (int, "integer"), (float, "number"),
        (Messages, "messages"),
    ]  # fmt: skip
    return next((kind for known, kind in kinds if known == annotation), None)


def _text(field: Field, value: Any) -> str:
    if not isinstance(value, str):
        raise field.wrong("text", value)
    if field.required and not value.strip():
        raise FieldError(f"{field.name} is empty: fill it in")
    return value


def _passage(field: Field, value: Any) -> Passage:
    text = _text(field, value)
    return text if isinstance(text, Passage) else Passage(text)


def _choice(field: Field, value: Any) -> str:
    if value not in field.choices:
        raise field.wrong("one of " + ", ".join(map(repr, field.choices)), value)
    return str(value)


def _flag(field: Field, value: Any) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    if not isinstance(value, bool):
        raise field.wrong("true or false", value)
    return value


def _number(field: Field, value: Any) -> float:
    whole = field.kind == "integer"
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or (whole and number % 1):
        raise field.wrong("a whole number" if whole else "a number", value)
    if field.bounds and not field.bounds.low <= number <= field.bounds.high:
        raise field.wrong(f"between {field.bounds.low:g} and {field.bounds.high:g}", value)
    return int(number) if whole else number


def _messages(field: Field, value: Any) -> Messages:
    if isinstance(value, str) and value.strip():
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise field.wrong("a list of messages, or a text", value)
    for turn in value:
        texts = isinstance(turn, dict) and all(
            isinstance(turn.get(key), str) for key in ("role", "content")
        )
        if not texts or turn["role"] not in ("system", "user", "assistant"):
            raise field.wrong(
                'made of {"role": "system", "user" or "assistant", "content": text}', turn
            )
    return [{"role": turn["role"], "content": turn["content"]} for turn in value]


_PARSERS: dict[Kind, Callable[[Field, Any], Any]] = {
    "line": _text, "passage": _passage, "choice": _choice, "flag": _flag, "integer": _number,
    "number": _number, "messages": _messages,
}  # fmt: skip
_JSON_TYPES: dict[Kind, str] = {
    "line": "string", "passage": "string", "choice": "string", "flag": "boolean",
    "integer": "integer", "number": "number", "messages": "array",
}  # fmt: skip
