"""A TOML file -> a `Plugin` without code: title, help, prompt, fields, decoding.

title = "Postcard"
help = "Write a postcard."
prompt = \"\"\"
Write a postcard from {place}, {length}.
\"\"\"

[fields]
place = "line"
length = { type = "choice", choices = ["short", "long"], default = "short" }

[decoding]
temperature = 0.8
"""

from __future__ import annotations

import inspect
import re
import string
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from lmapps.decoding import Decoding
from lmapps.errors import LmappsError, PluginError
from lmapps.fields import Bounds
from lmapps.passage import Passage
from lmapps.plugin import Plugin

KEYS = ("title", "help", "prompt", "fields", "decoding", "examples")
TYPES = {"line": str, "passage": Passage, "flag": bool, "integer": int, "number": float}
"""The types of fields, beside `choice`, which has `choices`."""
OPTIONS = ("type", "default", "choices", "low", "high")


def read_toml_plugin(file: Path) -> Plugin:
    """Raises `PluginError` with the line for whatever is wrong in the file."""
    source = file.read_text(encoding="utf-8")
    try:
        values = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"at line (\d+)", str(error))
        raise _wrong(f"not TOML: {error}", int(place.group(1)) if place else None) from None
    try:
        return _plugin(file.stem, values)
    except LmappsError as error:
        wrong = str(error)
        raise _wrong(wrong, getattr(error, "line", None) or _line_of(wrong, source)) from None


def _plugin(name: str, values: dict[str, Any]) -> Plugin:
    _check_keys("the file", values, KEYS)
    prompt = values.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise PluginError(f"'prompt' must be a text, got {prompt!r}")
    if not name.isidentifier():
        raise PluginError(f"the name {name!r} must be letters, digits and _: rename the file")
    fields, decoding = values.get("fields", {}), values.get("decoding", {})
    for key, table in (("fields", fields), ("decoding", decoding)):
        if not isinstance(table, dict):
            raise PluginError(f"'{key}' must be a table, [{key}], got {table!r}")
    parameters = [_parameter(field, options) for field, options in fields.items()]
    _check_placeholders(prompt, list(fields))
    return Plugin(
        _function(name, str(values.get("help", "")), prompt.strip(), parameters),
        title=values.get("title"),
        decoding=Decoding().replace(**decoding),
        examples=values.get("examples", ()),
    )


def _function(
    name: str, help: str, prompt: str, parameters: list[inspect.Parameter]
) -> Callable[..., str]:
    """The prompt function that an author would have written."""
    signature = inspect.Signature(parameters)

    def function(*args: Any, **given: Any) -> str:
        if len(args) > len(parameters):
            raise TypeError(f"{name} takes {len(parameters)} values, got {len(args)}")
        bound = signature.bind(**dict(zip(signature.parameters, args, strict=False)), **given)
        bound.apply_defaults()
        return prompt.format(**bound.arguments)

    function.__name__, function.__doc__ = name, help
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    return function


def _parameter(name: str, options: Any) -> inspect.Parameter:
    """A field, as its type alone or as a table: `{ type = "integer", low = 1, high = 9 }`."""
    options = {"type": options} if isinstance(options, str) else options
    if not isinstance(options, dict) or not name.isidentifier():
        raise PluginError(f"the field {name!r} must have a type, got {options!r}")
    _check_keys(f"the field {name!r}", options, OPTIONS)
    kind, default = options.get("type"), options.get("default", inspect.Parameter.empty)
    annotation: Any = TYPES.get(str(kind))
    if kind == "choice":
        choices = options.get("choices")
        if not (choices and isinstance(choices, list) and all(isinstance(c, str) for c in choices)):
            raise PluginError(f"the field {name!r} needs 'choices', a list of at least one text")
        annotation = Literal[tuple(choices)]
    if annotation is None:
        known = ", ".join([*TYPES, "choice"])
        raise PluginError(f"the field {name!r} has the type {kind!r}; types: {known}")
    if "low" in options or "high" in options:
        low, high = options.get("low"), options.get("high")
        if not isinstance(low, int | float) or not isinstance(high, int | float):
            raise PluginError(f"the field {name!r} needs both 'low' and 'high', as numbers")
        annotation = Annotated[annotation, Bounds(low, high)]
    anywhere = inspect.Parameter.KEYWORD_ONLY  # a required one may follow an optional one
    return inspect.Parameter(name, anywhere, default=default, annotation=annotation)


def _check_placeholders(prompt: str, fields: list[str]) -> None:
    """Every {name} in the prompt is a field, plain, and every field is in the prompt."""
    try:
        parts = list(string.Formatter().parse(prompt))
    except ValueError as error:
        raise PluginError(f"'prompt': {error}; write {{{{ and }}}} for braces") from None
    used = [name for _, name, spec, conversion in parts if name is not None]
    for _, name, spec, conversion in parts:
        if name is not None and (name not in fields or spec or conversion):
            known = ", ".join(fields) or "none"
            raise PluginError(
                f"'prompt' has {{{name}}}, which is no field (fields: {known}); write {{{{ and "
                "}} for braces"
            )
    for name in fields:
        if name not in used:
            raise PluginError(f"the field {name!r} is not in the prompt: write {{{name}}} there")


def _check_keys(what: str, values: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in values:
        if key not in known:
            raise PluginError(f"{what} has the unknown key {key!r}; known: {', '.join(known)}")


def _wrong(reason: str, line: int | None) -> PluginError:
    error = PluginError(reason)
    error.line = line
    return error


def _line_of(reason: str, source: str) -> int | None:
    """The line of the placeholder that a reason is about, else of the key that it names."""
    places = [re.escape(name) for name in re.findall(r"(\{\w+)\S*, which is no field", reason)]
    keys = re.findall(r"unknown key '(\w+)'", reason) + re.findall(r"'(\w+)'|^(\w+) must", reason)
    for key in keys:
        places.append(rf"(?:^|[{{,])\s*{key if isinstance(key, str) else key[0] or key[1]}\s*=")
    for place in places:
        for number, line in enumerate(source.splitlines(), start=1):
            if re.search(place, line):
                return number
    return None
