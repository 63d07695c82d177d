"""Plugins' translations -> words that the browser shows in the visitor's language."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gradio as gr
from gradio.i18n import I18nData

from lmapps.plugin import Plugin


def word(plugin: Plugin, text: str) -> Any:
    """A text of a plugin's, for a Gradio component; the text itself where nobody translated it."""
    translated = any(text in words for words in plugin.languages.values())
    return I18nData(_key(plugin, text)) if translated else text


def languages(plugins: Iterable[Plugin]) -> Any:
    """What `mount_gradio_app` needs as `i18n`."""
    texts: dict[str, dict[str, str]] = {"en": {}}
    for plugin in plugins:
        for language, words in plugin.languages.items():
            for text, translation in words.items():
                texts["en"].setdefault(_key(plugin, text), text)
                texts.setdefault(language, {})[_key(plugin, text)] = translation
    return gr.I18n(**texts)


def _key(plugin: Plugin, text: str) -> str:
    """Two plugins may translate a word in two ways."""
    return f"{plugin.name}: {text}"
