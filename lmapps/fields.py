"""The signature of a function -> fields: what a person can fill in, checked and described once.

Annotation                 kind              on the page           a value
`str`                      line              one line              text
`Passage`                  passage           a tall box, or a file text
`Literal[...]`             choice            a list                one of the texts
`list[Literal[...]]`       choices           checkboxes            some of the texts
`bool`                     flag              a checkbox            true or false
`int`, `float`             integer, number   a number; with `Annotated[int, Bounds(1, 9)]` a slider
`Messages`                 messages          a conversation        [{"role": ..., "content": ...}]
`X | None`                 that of X         may be left empty     the value, or None

What a field means to a person stands in the function's docstring, under "Args:".
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from lmapps.errors import FieldError, PluginError
from lmapps.kinds import (
    Choice,
    Choices,
    Flag,
    Kind,
    Line,
    LongText,
    Maybe,
    Unfit,
)
from lmapps.messages import Conversation, Message, Messages
from lmapps.number import Bounds, Integer, Number
from lmapps.passage import Passage
from lmapps.sentence import named

KINDS: tuple[type[Kind], ...] = (
    Line, LongText, Choice, Choices, Flag, Integer, Number, Conversation, Maybe,
)  # fmt: skip
"""What a form can have, in the order of the documentation."""
_TYPES: tuple[tuple[Any, Kind], ...] = (
    (str, Line()), (Passage, LongText()), (bool, Flag()), (int, Integer()), (float, Number()),
    (Messages, Conversation()),
)  # fmt: skip

RESERVED = ("checkpoint", "decoding", "explain", "help", "model", "stream")
"""Names that requests and commands use beside the fields of a plugin."""

REQUIRED = inspect.Parameter.empty
"""The default of a field that has none."""


@dataclass(frozen=True)
class Field:
    """One thing that a person fills in."""

    name: str
    type: Kind
    default: Any = REQUIRED
    label: str = ""
    help: str = ""

    @property
    def kind(self) -> str:
        """The name of its kind; see the table above."""
        return self.type.name

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @property
    def optional(self) -> bool:
        """Whether None is a value of it."""
        return isinstance(self.type, Maybe)

    def parse(self, value: Any) -> Any:
        """A value from JSON or a form, checked and converted. Raises `FieldError`."""
        try:
            return self.type.parse(value)
        except Unfit as error:
            name = named(self.name, self.label)
            raise FieldError("{name} {error}", name=name, error=error) from None

    def schema(self) -> dict[str, Any]:
        """JSON schema of the value: just what `parse` takes."""
        schema = {**self.type.schema(), "title": self.label}
        if self.help:
            schema["description"] = self.help
        if not self.required:
            schema["default"] = self.default
        return schema


def fields_of(
    function: Callable[..., Any],
    labels: Mapping[str, str] | None = None,
    helps: Mapping[str, str] | None = None,
) -> tuple[Field, ...]:
    """The fields of a function's signature. Raises `PluginError` for one without a widget."""
    labels, helps = labels or {}, helps or {}
    hints = hints_of(function)
    fields = []
    for parameter in inspect.signature(function).parameters.values():
        try:
            field = _field(parameter, hints.get(parameter.name))
        except PluginError as error:
            error.line = line_of(function, parameter.name)
            raise
        label = labels.get(field.name) or field.name.replace("_", " ").strip().capitalize()
        fields.append(replace(field, label=label, help=helps.get(field.name, "")))
    known = [field.name for field in fields]
    for where, names in (("labels", labels), ("the docstring's Args", helps)):
        for name in names:
            if name not in known:
                fix = f"its fields: {', '.join(known)}"
                raise PluginError(f"{where} of {function.__name__} names {name!r}; {fix}")
    return tuple(fields)


def hints_of(annotated: Any) -> dict[str, Any]:
    """The annotations of a function or class. Raises `PluginError` for one that is no type."""
    try:
        return get_type_hints(annotated, include_extras=True)
    except (NameError, TypeError, SyntaxError, AttributeError) as error:
        raise PluginError(f"an annotation of {annotated.__name__} is unknown: {error}") from None


def kind_of(annotation: Any) -> Kind | None:
    """The kind of a type; None where there is none."""
    bounds = None
    if get_origin(annotation) is Annotated:
        annotation, *extras = get_args(annotation)
        bounds = next((extra for extra in extras if isinstance(extra, Bounds)), None)
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        rest = [part for part in parts if part is not NoneType]
        inner = kind_of(rest[0]) if len(rest) == 1 and len(parts) == 2 else None
        usable = inner is not None and not isinstance(inner, Conversation)
        return Maybe(inner=_bounded(inner, bounds)) if inner and usable else None
    if origin is Literal and parts and all(isinstance(choice, str) for choice in parts):
        return Choice(choices=parts)
    if origin is list and parts and get_origin(parts[0]) is Literal:
        item = kind_of(parts[0])
        return Choices(choices=item.choices) if isinstance(item, Choice) else None
    known = next((kind for type_, kind in _TYPES if type_ == annotation), None)
    return _bounded(known, bounds) if known else None


def _bounded(kind: Kind, bounds: Bounds | None) -> Kind:
    return replace(kind, bounds=bounds) if bounds and isinstance(kind, Number) else kind


def _field(parameter: inspect.Parameter, annotation: Any) -> Field:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise PluginError(f"{parameter} takes any number of values: name each field instead")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise PluginError(
            f"the field {parameter.name!r} stands before a /, but fields are given by name: "
            "remove the /"
        )
    if parameter.name in RESERVED:
        raise PluginError(f"the name {parameter.name!r} is taken by lmapps: rename the field")
    kind = kind_of(annotation)
    if kind is None:
        known = ", ".join(kind.written for kind in KINDS)
        shown = "no annotation" if annotation is None else inspect.formatannotation(annotation)
        raise PluginError(
            f"field {parameter.name!r} has no widget for {shown}: annotate it with {known}"
        )
    default = (
        None if parameter.default is REQUIRED and isinstance(kind, Maybe) else parameter.default
    )
    if default is REQUIRED:
        return Field(parameter.name, replace(kind, filled=True))
    field = Field(parameter.name, kind, list(default) if isinstance(default, tuple) else default)
    try:
        field.parse(field.default)
    except FieldError as error:
        raise PluginError(f"the default of a field does not fit: {error}") from None
    return field


def line_of(function: Callable[..., Any], parameter: str) -> int:
    """The line of a parameter in its file; that of the function where the source is not there."""
    first = function.__code__.co_firstlineno
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):
        return first
    found = (n for n in ast.walk(tree) if isinstance(n, ast.arg) and n.arg == parameter)
    return first + next((node.lineno - 1 for node in found), 0)


_SECTION = re.compile(r"^(Args|Returns|Yields|Raises):[ ]*\n((?:[ ]+\S.*(?:\n|$)|[ ]*\n)*)", re.M)
_ENTRY = re.compile(r"^(\w+)(?: \([^)]*\))?:[ ]*(.*)$")


def split_docstring(docstring: str) -> tuple[str, dict[str, str]]:
    """A docstring in Google's style -> what it says to a person, and the help of each field.

    The help is what "Args:" says; other sections are for readers of the code.
    """
    helps: dict[str, str] = {}
    for title, section in _SECTION.findall(docstring):
        if title == "Args":
            helps |= _entries(textwrap.dedent(section))
    return re.sub(r"\n{3,}", "\n\n", _SECTION.sub("", docstring)).strip(), helps


def _entries(section: str) -> dict[str, str]:
    """`name: text` and the indented lines after it."""
    entries: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if entry := _ENTRY.match(line):
            name, entries[entry.group(1)] = entry.group(1), entry.group(2).strip()
        elif name and line.strip():
            entries[name] = f"{entries[name]} {line.strip()}".strip()
    return entries


__all__ = ["KINDS", "Bounds", "Field", "Message", "Messages", "fields_of", "kind_of"]
