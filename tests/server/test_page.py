"""The page as it is built, without a browser."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gradio as gr
import pytest

from lmapps import Messages, plugin
from lmapps.discovery import Found
from lmapps.engine.engine import Engine
from lmapps.engine.models import Models
from lmapps.failures import remembered
from lmapps.plugin import Plugin
from lmapps.server.page.chat.chat import ChatTab
from lmapps.server.page.chat.saved import Place
from lmapps.server.page.chat.seen import Seen
from lmapps.server.page.languages import plugin_word
from lmapps.server.page.live import only_news
from lmapps.server.page.page import build_page
from lmapps.server.page.picker import Picker
from lmapps.server.page.visitor import Visitor
from lmapps.server.page.way import Way
from lmapps.server.page.widgets import examples, widget
from lmapps.server.store import exported
from lmapps.server.store.conversation import Conversation, Turn
from lmapps.server.store.exported import Exports
from lmapps.server.store.store import Store


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path / "home"))


@pytest.fixture
def engine(tiny_checkpoint: Callable[[str], Any]) -> Iterator[Engine]:
    with Engine(tiny_checkpoint("gru")) as engine:
        yield engine


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path / 'test.db'}")


@plugin
def good(text: str) -> str:
    return text


@plugin
def bad(text: str) -> str:
    return text


@plugin(examples=[["Be brief.", "Hello", 2], ["Be kind.", [{"role": "user", "content": "Bye"}]]])
def late(persona: str, messages: Messages, warmth: int = 1) -> Messages:
    return messages


def texts_of(page: gr.Blocks) -> str:
    return " ".join(str(b.value) for b in page.blocks.values() if isinstance(b, gr.Markdown))


def chat_tab(plugin: Plugin, engine: Engine, store: Store) -> ChatTab:
    with gr.Blocks():
        return ChatTab(plugin, Picker(Models.of(engine)), Visitor(store))


def test_a_tab_that_cannot_be_built_says_so_and_the_others_are_there(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def component(self) -> Any:
            raise ValueError("no such component")

    monkeypatch.setattr(bad, "reply_form", Broken())
    page = build_page(Found({"bad": bad, "good": good}), Models.of(engine), store)
    told = texts_of(page).replace("\\", "")
    assert "⚠ The tab of plugin 'bad' cannot be built: ValueError: no such component" in told
    assert any(block.elem_id == "reply-good" for block in page.blocks.values())
    (failure,) = remembered()
    assert failure.reason == "the tab of plugin 'bad' cannot be built: ValueError"


def test_of_a_page_one_tab_is_drawn_at_a_time(engine: Engine, store: Store) -> None:
    page = build_page(Found({"good": good}), Models.of(engine), store)
    drawing = [fn for fn in page.fns.values() if fn.concurrency_id == "draw"]
    assert len(drawing) > 10 and {fn.concurrency_limit for fn in drawing} == {1}
    assert all(fn.renderable is None for fn in page.fns.values() if fn not in drawing)


def test_a_table_of_examples_shows_the_words_of_a_choice() -> None:
    @plugin(title="Write", examples=[["rain", "short"]])
    def write(topic: str, length: Literal["short", "long"] = "long") -> str:
        """Write."""
        return topic

    with gr.Blocks() as page:
        boxes = [widget(field, partial(plugin_word, write)) for field in write.fields]
        examples(write, boxes)
    parts = page.get_config_file()["components"]
    table = next(part for part in parts if part["type"] == "dataset")
    assert table["props"]["component_props"][1]["choices"] == [("short", "short"), ("long", "long")]


def test_an_example_fills_every_field_of_a_chat_in_its_own_box(
    engine: Engine, store: Store
) -> None:
    with gr.Blocks() as page:
        tab = ChatTab(late, Picker(Models.of(engine)), Visitor(store))
    (shown,) = [block for block in page.blocks.values() if isinstance(block, gr.Dataset)]
    assert shown.samples == [["Be brief.", "Hello", 2], ["Be kind.", "Bye", 1]]
    targets = [
        [block for block in fn.outputs] for fn in page.fns.values() if tab.message in fn.outputs
    ]
    assert [tab.inputs[0], tab.message, tab.inputs[1]] in targets


def test_what_is_pressed_before_the_page_knows_whose_it_is_changes_nothing_but_the_status(
    engine: Engine, store: Store
) -> None:
    tab = chat_tab(late, engine, store)

    async def pressed() -> list[dict[Any, Any]]:
        said = tab.talk.send(Place(), "Hello", Way({}, lambda: late.decoding))
        return [update async for update in tab._streamed(Place(), said)]

    (update,) = asyncio.run(pressed())
    assert set(update) == {tab.status} and "opening" in update[tab.status]
    assert set(tab._told(Place(), lambda: Seen(Place(), title=""))) == {tab.status}


def test_a_mistake_of_ours_gives_a_chat_its_buttons_back(engine: Engine, store: Store) -> None:
    tab = chat_tab(late, engine, store)

    async def broken() -> AsyncGenerator[Seen, None]:
        yield Seen(Place("ann"), busy=True)
        raise KeyError("x")

    async def collect() -> list[Any]:
        return [update async for update in tab._streamed(Place("ann"), broken())]

    first, last = asyncio.run(collect())
    assert not first[tab.send]["interactive"] and last[tab.send]["interactive"]
    assert "Something went wrong in the server (KeyError)" in last[tab.status]


def test_the_files_of_old_exports_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported, "KEPT", 2)
    whole = Conversation("", "A / title", "a", [Turn("a", None, "user", "Hi", "person")])
    exports = Exports()
    written = [exports.write(whole) for _ in range(4)]
    assert [Path(file).name for file in written[0]] == ["A-title.md", "A-title.json"]
    there = [[Path(file).exists() for file in files] for files in written]
    assert there == [[False, False], [False, False], [True, True], [True, True]]
    assert not Path(written[0][0]).parent.exists()


def test_a_stream_of_updates_sends_what_has_changed_and_a_value_alone() -> None:
    @only_news
    async def stream() -> AsyncGenerator[dict[str, Any], None]:
        for text, busy in (("a", True), ("ab", True), ("ab", True), ("abc", False)):
            yield {"talk": gr.update(value=text, height=3), "send": gr.update(interactive=not busy)}

    async def collect() -> list[Any]:
        return [update async for update in stream()]

    first, second, last = asyncio.run(collect())
    assert first["talk"] == gr.update(value="a", height=3) and "send" in first
    assert second == {"talk": "ab"}
    assert last == {"talk": "abc", "send": gr.update(interactive=True)}
