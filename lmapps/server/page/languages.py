"""The words of the page and of the plugins -> the same in the visitor's language.

The English text itself is what a translation is looked up by: `word("New chat")`. The page is built
once for everybody, so while it is built a word is one that the browser translates; within a request
it is a plain text in that visitor's language, which may carry values:
`word("Version {number} of {count}", number=2, count=3)`. What the rest of lmapps tells a visitor,
errors above all, is a `Sentence`: `translated(error)`. A further language is one more file in
`words/`; `tests/server/test_languages.py` finds what it lacks.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lmapps.errors import LmappsError
from lmapps.plugin import Plugin
from lmapps.sentence import Sentence

WORDS = Path(__file__).parent / "words"
COOKIE = "lmapps_language"
"""Holds the language chosen on the page (`page.js`); without it the browser's first one counts."""


@dataclass(frozen=True)
class Language:
    """One file of words."""

    name: str
    """What the language calls itself."""
    locale: str
    """What Gradio, which has words of its own, calls it."""
    words: Mapping[str, str]

    @property
    def fixed(self) -> dict[str, str]:
        """Those without values: the others are never asked for in the browser."""
        return {text: said for text, said in self.words.items() if "{" not in text}


@cache
def known() -> dict[str, Language]:
    """The languages beside English, by their code."""
    files = {path.stem: tomllib.loads(path.read_text("utf-8")) for path in WORDS.glob("*.toml")}
    return {code: Language(**files[code]) for code in sorted(files)}


def word(text: str, /, **values: Any) -> Any:
    """One of the page's own words or sentences; `values` fill in its {names}.

    A text with values has to be asked for within a request: the browser knows fixed texts only.
    """
    shown = _shown("", text, {code: language.words for code, language in known().items()})
    assert isinstance(shown, str) or not values, f"{text!r} has values while the page is built"
    return shown.format(**values) if values else shown


def word_for(request: Any, text: str, /, **values: Any) -> str:
    """The same where the request is no event of the page's: Starlette's, for a page of our own."""
    by_code = {code: language.words for code, language in known().items()}
    shown = next(_found(text, by_code, codes_of(request)), text)
    return shown.format(**values) if values else shown


def later(text: str) -> str:
    """A text that stands in a table, to be given to `word` when it is shown."""
    return text


def translated(said: Any, say: Callable[..., Any] = word) -> Any:
    """A `Sentence`, or that of an error for others, in the visitor's language; anything else as it
    is.

    say  what gives its texts in that language
    """
    sentence = said
    if isinstance(said, Exception) and said.args:
        sentence = said.outward if isinstance(said, LmappsError) else said.args[0]
    if not isinstance(sentence, Sentence):
        return said
    values = {name: translated(value, say) for name, value in sentence.values.items()}
    return say(sentence.template, **values)


def plugin_word(plugin: Plugin, text: str, /, **values: Any) -> Any:
    """A text of a plugin's, in its own translation, else as the page's files have it; the text
    itself where nobody translated it."""
    own = any(text in words for words in plugin.languages.values())
    return _shown(plugin.name, text, plugin.languages) if own else word(text, **values)


def languages(plugins: Iterable[Plugin]) -> Any:
    """What `mount_gradio_app` needs as `i18n`."""
    import gradio as gr

    texts: dict[str, dict[str, str]] = {"en": {}}
    sources = [("", {code: language.fixed for code, language in known().items()})]
    for name, by_code in [*sources, *((plugin.name, plugin.languages) for plugin in plugins)]:
        for code, words in by_code.items():
            for text, translation in words.items():
                texts["en"].setdefault(_key(name, text), text)
                texts.setdefault(code, {})[_key(name, text)] = translation
    return gr.I18n(**texts)


def locales() -> dict[str, str]:
    """What Gradio calls each language of the page, by code."""
    return {"en": "en"} | {code: language.locale for code, language in known().items()}


def codes_of(request: Any) -> list[str]:
    """The visitor's language as a cookie or the browser tells it: "zh-CN" as zh-CN and as zh."""
    first = request.headers.get("accept-language", "").partition(",")[0].partition(";")[0].strip()
    code = request.cookies.get(COOKIE) or first
    return [code, code.partition("-")[0]]


def _shown(owner: str, text: str, by_code: Mapping[str, Mapping[str, str]]) -> Any:
    """A text of an owner's, of whom there are translations by language."""
    from gradio.context import Context, LocalContext
    from gradio.i18n import I18nData

    request = LocalContext.request.get(None)
    if request is None and Context.root_block is not None:
        is_known = any(text in words for words in by_code.values())
        return I18nData(_key(owner, text)) if is_known else text
    return next(_found(text, by_code, [] if request is None else codes_of(request)), text)


def _found(
    text: str, by_code: Mapping[str, Mapping[str, str]], codes: Iterable[str]
) -> Iterator[str]:
    for code in codes:
        if text in by_code.get(code, {}):
            yield by_code[code][text]


def _key(owner: str, text: str) -> str:
    """The page and two plugins may translate a word in three ways."""
    return f"{owner}: {text}"
