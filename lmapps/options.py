"""What `@plugin(...)` was given -> the same, checked: a `PluginError` names what does not fit."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lmapps.decoding import Decoding
from lmapps.errors import PluginError

OPTIONS = ("title", "decoding", "reply", "finish", "examples", "labels", "languages")

Languages = Mapping[str, Mapping[str, str]]
"""A language as browsers name it -> a form's texts and their translations."""


def check_names(options: Mapping[str, Any]) -> None:
    """Raises `PluginError` for a keyword that `@plugin` does not know."""
    for name in options:
        if name not in OPTIONS:
            raise PluginError(f"@plugin has no option {name!r}; known: {', '.join(OPTIONS)}")


def check_function(function: Any, what: str) -> None:
    """Raises `PluginError` for what is no function, and for one that must be awaited."""
    if not inspect.isfunction(inspect.unwrap(function) if callable(function) else None):
        raise PluginError(f"{what} must be a function, got {function!r}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise PluginError(f"{what} {function.__name__} is async: write def in place of async def")


def check_options(
    title: Any, decoding: Any, finish: Any, examples: Any, labels: Any, languages: Any
) -> None:
    """Raises `PluginError` for a value of the wrong type. The fields and the reply check theirs."""
    _check("title", title, title is None or isinstance(title, str), 'a text, "Poem"')
    is_decoding = decoding is None or isinstance(decoding, Decoding)
    _check("decoding", decoding, is_decoding, "a Decoding, Decoding(temperature=0.7)")
    _check("finish", finish, finish is None or callable(finish), "a function of the reply")
    for row in examples if isinstance(examples, list | tuple) else [examples]:
        if not isinstance(row, list | tuple):
            raise PluginError(
                "examples must be a list of rows, and an example is a row of values, one for each "
                f"field: write [[{row!r}]], got {examples!r}"
            )
    is_labels = labels is None or _is_texts(labels)
    _check("labels", labels, is_labels, 'field names and texts, {"text": "Your letter"}')
    is_languages = languages is None or (
        isinstance(languages, Mapping)
        and all(isinstance(name, str) and _is_texts(words) for name, words in languages.items())
    )
    _check("languages", languages, is_languages, 'texts by language, {"zh": {"Poem": "诗"}}')


def _check(name: str, value: Any, fits: bool, wanted: str) -> None:
    if not fits:
        raise PluginError(f"{name} must be {wanted}, got {value!r}")


def _is_texts(value: Any) -> bool:
    """Whether it is a mapping of texts to texts."""
    return isinstance(value, Mapping) and all(
        isinstance(text, str) for pair in value.items() for text in pair
    )


def checked_languages(languages: Languages, words: Sequence[str]) -> Languages:
    """Raises `PluginError` for a translation of something that the form does not say."""
    for language, translations in languages.items():
        if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*", language):
            raise PluginError(f"languages names them as browsers do (zh, pt-BR), got {language!r}")
        for text in translations:
            if text not in words:
                raise PluginError(
                    f"languages translates {text!r} to {language}, but the form says only: "
                    + ", ".join(map(repr, words))
                )
    return languages
