"""Every word of the page has its translation, and a visitor gets the one of their language."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio.context import LocalContext

import lmapps
from lmapps import load, plugin
from lmapps.discovery import Found, discover
from lmapps.engine.engine import Engine
from lmapps.engine.models import Models
from lmapps.paths import plugin_folders
from lmapps.plugin import Plugin
from lmapps.server.page import languages
from lmapps.server.page.languages import known, locales, plugin_word, word
from lmapps.server.page.page import build_page
from lmapps.server.store.store import Store

SERVER = Path(lmapps.__file__).parent / "server"
PAGE = SERVER / "page"
ASKS = ("word", "later")
NAMES = {"Like", "Dislike", "True", "False", "English", "Correct the plugin."}
"""What looks like a word for people but is a name of Gradio's or ours, or is told in English
everywhere, as what failed in a plugin."""


def asked(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ASKS:
            yield node


def texts(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value


def trees(folder: Path) -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in sorted(folder.rglob("*.py"))}


def words_in_the_code() -> set[str]:
    """The texts given to `word`, or kept for it by `later`."""
    calls = (call for tree in trees(SERVER).values() for call in asked(tree))
    pages = "".join(file.read_text() for file in SERVER.rglob("*.jinja"))
    in_pages = set(re.findall(r'word\("([^"]+)"', pages))
    return in_pages | {text for call in calls for text in texts(call.args[0]) if text}


def words_of_the_plugins() -> set[str]:
    """The texts of the forms that come along: the page's files translate them too."""
    return {text for each in discover(plugin_folders()[:1]).plugins.values() for text in each.words}


def names_in(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("code", sorted(known()))
def test_a_language_has_every_word_of_the_page_and_no_other(code: str) -> None:
    there, needed = set(known()[code].words), words_in_the_code() | words_of_the_plugins()
    assert not needed - there, f"words/{code}.toml lacks these"
    assert not there - needed, f"no code asks for these of words/{code}.toml"


@pytest.mark.parametrize("code", sorted(known()))
def test_a_translation_fills_in_the_same_values(code: str) -> None:
    for text, translation in known()[code].words.items():
        assert names_in(text) == names_in(translation), text
        assert translation.strip(), text


def speech(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Texts that read like words for a person, outside of docstrings and of `word`."""
    inside = {id(inner) for call in asked(tree) for inner in ast.walk(call)}
    said = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) in inside | said or node.value in NAMES:
                continue
            sentence = re.match(r"[A-Z][a-z]+( |$|[.,:!?])", node.value)
            if sentence and not re.search(r"[<>;]|=>", node.value):
                yield node.lineno, node.value


def test_no_word_for_a_person_is_written_past_the_translations() -> None:
    components = {name for name in dir(gr) if name[:1].isupper()}
    found = [
        f"{path.name}, line {line}: {text!r}"
        for path, tree in trees(PAGE).items() if path.name != "theme.py"
        for line, text in speech(tree)
        if text not in components
    ]  # fmt: skip
    assert not found, "give these to word()"


@plugin(title="Letter", examples=[["Rome", 2]])
def letter(topic: str, lines: int = 3) -> str:
    return topic


def load_chat() -> Plugin:
    return load(Path(lmapps.__file__).parent.parent / "plugins" / "chat.py")


@pytest.fixture
def page(tiny_checkpoint: Callable[[str], Any], tmp_path: Path) -> Iterator[gr.Blocks]:
    with Engine(tiny_checkpoint("gru")) as engine:
        store = Store(f"sqlite:///{tmp_path / 'test.db'}")
        yield build_page(Found({"chat": load_chat(), "letter": letter}), Models.of(engine), store)


def shown_by(block: Any) -> Iterator[Any]:
    names = ("label", "info", "placeholder")
    for name in names if getattr(block, "show_label", True) else names[1:]:
        yield getattr(block, name, None)
    for choice in getattr(block, "choices", None) or []:
        yield choice[0]
    if isinstance(block, gr.Button | gr.Markdown):
        yield block.value


def test_what_the_page_shows_from_the_start_is_translated_in_the_browser(page: gr.Blocks) -> None:
    own = {text for each in (letter, load_chat()) for text in each.words} | {"lmapps", "unnamed"}
    blocks = [block for block in page.blocks.values() if getattr(block, "visible", True) is True]
    shown = {text for block in blocks for text in shown_by(block) if text and text not in own}
    keys = {match[1] for text in shown if (match := re.search('"key": "(.*?)"}', str(text)))}
    plain = {text for text in shown if "__i18n__" not in str(text)}
    assert not {text for text in plain if re.search("[A-Za-z]{2}", text)}
    told = languages.languages([]).translations
    assert ": Send" in keys and keys <= told["en"].keys() and keys <= told["zh"].keys()


@pytest.fixture
def visit() -> Iterator[Callable[..., None]]:
    """Stand within a request of a browser."""
    tokens = []

    def visit(language: str, **cookies: str) -> None:
        headers = {"accept-language": language}
        request: Any = SimpleNamespace(headers=headers, cookies=cookies)
        tokens.append(LocalContext.request.set(request))

    yield visit
    for token in reversed(tokens):
        LocalContext.request.reset(token)


@pytest.mark.parametrize(
    ("language", "cookies", "expected"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", {}, "发送"),
        ("zh-Hant-TW;q=1", {}, "发送"),
        ("en-GB,zh;q=0.9", {}, "Send"),
        ("xx", {}, "Send"),
        ("", {}, "Send"),
        ("en", {"lmapps_language": "zh"}, "发送"),
        ("zh-CN", {"lmapps_language": "en"}, "Send"),
    ],
)
def test_a_visitor_is_told_in_the_language_chosen_else_in_the_browsers(
    language: str, cookies: dict[str, str], expected: str, visit: Callable[..., None]
) -> None:
    visit(language, **cookies)
    assert word("Send") == expected


def test_a_sentence_carries_its_values_in_every_language(visit: Callable[..., None]) -> None:
    text = "Version {number} of {count}"
    assert word(text, number=2, count=3) == "Version 2 of 3"
    visit("zh-CN")
    assert word(text, number=2, count=3) == "第 2 版，共 3 版"


def test_a_sentence_with_values_is_refused_while_the_page_is_built() -> None:
    with gr.Blocks(), pytest.raises(AssertionError, match="has values while the page is built"):
        word("Version {number} of {count}", number=2, count=3)


def test_a_plugins_words_come_in_its_own_translation(visit: Callable[..., None]) -> None:
    @plugin(languages={"zh": {"Send": "寄出"}}, title="Send")
    def post(text: str) -> str:
        return text

    visit("zh-CN")
    assert (plugin_word(post, "Send"), plugin_word(letter, "Letter")) == ("寄出", "Letter")


def test_a_further_language_is_one_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visit: Callable[..., None]
) -> None:
    (tmp_path / "fr.toml").write_text('name="Français"\nlocale="fr"\n[words]\nSend = "Envoyer"')
    monkeypatch.setattr(languages, "WORDS", tmp_path)
    known.cache_clear()
    try:
        visit("fr-CA,en")
        assert (word("Send"), word("Stop")) == ("Envoyer", "Stop")
        assert languages.languages([]).translations["fr"] == {": Send": "Envoyer"}
        assert locales() == {"en": "en", "fr": "fr"}
    finally:
        known.cache_clear()
