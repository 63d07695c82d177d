"""Every word of the page has its translation, and a visitor gets the one of their language."""

from __future__ import annotations

import ast
import asyncio
import re
import string
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio.context import LocalContext

import lmapps
from lmapps import load, plugin
from lmapps.decoding import Decoding
from lmapps.discovery import Found, discover
from lmapps.engine.engine import Engine
from lmapps.engine.models import Models
from lmapps.errors import Busy, FieldError
from lmapps.paths import plugin_folders
from lmapps.plugin import Plugin
from lmapps.server.page import languages
from lmapps.server.page.languages import known, locales, plugin_word, translated, word
from lmapps.server.page.live import views
from lmapps.server.page.page import build_page
from lmapps.server.store.store import Store

PACKAGE = Path(lmapps.__file__).parent
SERVER = PACKAGE / "server"
PAGE = SERVER / "page"
ASKS = ("word", "later", "Sentence", "Unreadable")
MET = {
    "Busy", "ModelInUse", "ModelTooLarge", "NoSuchConversation", "NoSuchModel", "NotAllowed",
    "OneAtATime", "PromptTooLong", "QuotaReached", "ReplyError", "Unfit",
}  # fmt: skip
"""Errors that a visitor meets wherever they come from."""
NAMES = {"Like", "Dislike", "True", "False", "English", "Correct the plugin."}
"""What looks like a word for people but is a name of Gradio's or ours, or is told in English
everywhere, as what failed in a plugin."""


def asked(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls that are given a text to be translated: an error is, where it is given values."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            has_values = any(given.arg not in (None, "retry_after") for given in node.keywords)
            if node.func.id in ASKS or (node.func.id in errors() and has_values):
                yield node


@cache
def errors() -> set[str]:
    """What the exceptions are called that come from `LmappsError`."""
    classes = [node for tree in trees(PACKAGE).values() for node in ast.walk(tree)]
    found, before = {"LmappsError"}, set[str]()
    while found != before:
        before = set(found)
        for node in classes:
            if isinstance(node, ast.ClassDef):
                bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                found |= {node.name} if bases & found else set()
    return found


def texts(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value


@cache
def trees(folder: Path) -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in sorted(folder.rglob("*.py"))}


def words_in_the_code() -> set[str]:
    """The texts given to `word`, kept for it by `later`, or told as sentences."""
    calls = (call for tree in trees(PACKAGE).values() for call in asked(tree))
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


def test_a_text_is_given_all_the_values_that_it_names() -> None:
    for path, tree in trees(PACKAGE).items():
        for call in asked(tree):
            given = {value.arg for value in call.keywords}
            for text in texts(call.args[0]):
                assert names_in(text) <= given, f"{path.name}, line {call.lineno}"


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


def untold(call: ast.Call) -> bool:
    """Whether an exception is given a text that nobody translates."""
    inside = {id(inner) for each in asked(call) for inner in ast.walk(each)}
    return any(
        isinstance(inner, ast.Constant) and isinstance(inner.value, str) and id(inner) not in inside
        for given in call.args
        for inner in ast.walk(given)
    )


def on_page(file: Path) -> bool:
    """Whether what is raised there is told on the page; these answer programs."""
    return PAGE in file.parents and file.name not in ("news.py", "events.py", "faults.py")


def test_what_an_error_tells_a_visitor_is_translated() -> None:
    found = [
        f"{path.name}, line {node.lineno}: {node.func.id}"
        for path, tree in trees(PACKAGE).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in (errors() if on_page(path) else MET) and untold(node)
    ]
    assert not found, "give these values, or a Sentence"


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


async def shown(asked: Plugin, values: dict[str, Any], engine: Engine) -> list[str]:
    """Every line about the state that a tab shows of a request."""
    news = views(Models.of(engine), asked, values, lambda: Decoding(max_new_tokens=4, seed=1))
    return [view.status async for view in news]


LONG = [{"role": role, "content": "the river " * 9} for role in ("user", "assistant")] * 9
REFUSALS: list[tuple[dict[str, Any], int, str, str]] = [
    (
        {"topic": "Rome"}, 0, "⚠ 0 requests are waiting already: try again in a moment.",
        "⚠ 已有 0 个请求在排队：请稍后再试。",
    ),
    (
        {"topic": "the river " * 99}, 9,
        "⚠ The prompt has {} tokens, the model takes at most 124 beside its reply: shorten it.",
        "⚠ 提示有 {} 个词元，除回复外模型最多接受 124 个：请缩短。",
    ),
    ({}, 9, "⚠ Letter needs the field 'Topic'.", "⚠ “Letter”需要填写“主题”。"),
    ({"topic": " "}, 9, "⚠ Topic is empty: fill it in.", "⚠ “主题”为空：请填写。"),
    (
        {"topic": "Rome", "lines": 0.5}, 9, "⚠ Lines must be a whole number, got 0.5.",
        "⚠ “Lines”应为整数，收到的是 0.5。",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "queue", "english", "chinese"), REFUSALS,
    ids=["full", "too long", "missing", "empty", "no whole number"],
)  # fmt: skip
@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_a_visitor_is_refused_in_their_language(
    values: dict[str, Any], queue: int, english: str, chinese: str, language: str,
    endless_checkpoint: Callable[[str], Any], visit: Callable[..., None],
) -> None:  # fmt: skip
    visit(language)
    with Engine(endless_checkpoint("gru"), queue=queue) as engine:
        told = asyncio.run(shown(letter, values, engine))[-1]
    expected = chinese if language == "zh-CN" else english
    assert re.sub(r"(?<=有 )\d\d+|(?<=has )\d\d+", "{}", told) == expected


def test_a_visitor_is_told_in_their_language_that_a_conversation_is_too_long(
    endless_checkpoint: Callable[[str], Any], visit: Callable[..., None]
) -> None:
    visit("zh-CN")
    with Engine(endless_checkpoint("gru")) as engine:
        lines = asyncio.run(shown(load_chat(), {"messages": [*LONG, LONG[0]]}, engine))
    assert any(
        re.fullmatch(r"对话超出了提示可有的 \d+ 个词元：已略去最早的 \d+ 条消息。", each)
        for each in lines
    )


def test_a_field_is_named_as_the_plugin_translates_it(
    endless_checkpoint: Callable[[str], Any], visit: Callable[..., None]
) -> None:
    @plugin(languages={"zh": {"Recipient": "收信人"}})
    def post(recipient: str) -> str:
        return recipient

    visit("zh-CN")
    with Engine(endless_checkpoint("gru")) as engine:
        told = asyncio.run(shown(post, {"recipient": ""}, engine))
    assert told[-1] == "⚠ “收信人”为空：请填写。"


def test_an_error_says_it_in_english_wherever_no_page_asks(visit: Callable[..., None]) -> None:
    visit("zh-CN")
    with pytest.raises(FieldError) as refused:
        letter.validate({"topic": ""})
    assert str(refused.value) == "topic is empty: fill it in"
    assert translated(refused.value) == "“主题”为空：请填写"
    assert str(Busy("{} as it is")) == "{} as it is", "a text without values is no template"
