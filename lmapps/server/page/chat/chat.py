"""A plugin that takes a conversation -> the chat tab: what there is to press, and what it shows."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from lmapps.errors import LmappsError
from lmapps.plugin import Plugin
from lmapps.server.page.chat.inside import Panel
from lmapps.server.page.chat.saved import Place
from lmapps.server.page.chat.shelf import Shelf
from lmapps.server.page.chat.talk import Seen, Talk
from lmapps.server.page.forms.forms import buttons, stopped
from lmapps.server.page.languages import plugin_word, word
from lmapps.server.page.live import Update, nothing, only_news, too_early, warning
from lmapps.server.page.picker import Picker
from lmapps.server.page.presets import decoding_panel, fields_panel
from lmapps.server.page.visitor import NAME
from lmapps.server.page.way import Way
from lmapps.server.page.widgets import (
    FOCUS,
    PRIVATE,
    chat_examples,
    decoding_from,
    values_of,
)
from lmapps.server.store.aside import aside
from lmapps.server.store.conversation import Turn
from lmapps.server.store.exported import read_export
from lmapps.server.store.presets import Presets
from lmapps.server.store.store import Store
from lmapps.server.who import owner_on_page

QUIET: dict[str, Any] = {"show_progress": "hidden", **PRIVATE}


def chat_tab(plugin: Plugin, picker: Picker, page: gr.Blocks, store: Store) -> None:
    """Build the tab inside the `gr.Tab` that is open."""
    ChatTab(plugin, picker, store).connect(page)


class ChatTab:
    """The components of one chat tab, and what happens when they are pressed."""

    def __init__(self, plugin: Plugin, picker: Picker, store: Store) -> None:
        self.plugin, self.picker = plugin, picker
        self.talk = Talk(plugin, picker.models, store)
        self.others = [field for field in plugin.fields if field.kind != "messages"]
        self.place, self.name = gr.State(Place()), gr.Textbox(visible="hidden")
        self.kept = gr.BrowserState(
            {"visitor": "", "conversation": ""},
            storage_key=f"lmapps-{self.plugin.name}",
            secret="lmapps",
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=200, elem_classes="chat-list"):
                self.shelf = Shelf()
            with gr.Column(scale=4, min_width=300):
                self._build_chat(Presets(store.database))
        self.outputs = [
            self.place, self.kept, *self.shelf.outputs, self.earlier, self.chatbot, self.versions,
            self.version, self.status, self.message, self.send, self.stop, self.retry,
            *self.panel.outputs,
        ]  # fmt: skip

    def _build_chat(self, presets: Presets) -> None:
        plugin, shown = self.plugin, partial(plugin_word, self.plugin)
        self.earlier = gr.Button(word("Show earlier messages"), size="sm", visible=False)
        self.chatbot = gr.Chatbot(
            label=shown(plugin.title), buttons=["copy"], height="55vh", allow_tags=False,
            elem_id=f"chat-{plugin.name}", placeholder=shown(plugin.help), editable="all",
            feedback_options=("Like", "Dislike"),
        )  # fmt: skip
        with gr.Row(visible=False, elem_classes="versions") as self.versions:
            self.before = gr.Button("‹", size="sm", elem_id="version-before")
            self.version = gr.Markdown(elem_id="version")
            self.after = gr.Button("›", size="sm", elem_id="version-after")
        self.status = gr.Markdown(elem_classes="status")
        self.message = gr.Textbox(
            label=word("Message"), show_label=False, placeholder=word("Write a message"),
            max_lines=6, elem_id="message",
        )  # fmt: skip
        with gr.Row():
            self.send = gr.Button(  # can be pressed as soon as it is known whose the page is
                word("Send"), variant="primary", interactive=False, min_width=60, elem_id="send"
            )
            self.stop = gr.Button(
                word("Stop"), variant="stop", interactive=False, min_width=60,
                elem_classes="stop-reply",
            )  # fmt: skip
            self.retry = gr.Button(word("Retry"), interactive=False, min_width=60)
            self.undo = gr.Button(word("Undo"), min_width=60)
        self.fields = fields_panel(plugin, presets)
        self.inputs = self.fields.controls if self.fields else []
        chat_examples(plugin, self.message, self.inputs)
        self.decoding = decoding_panel(plugin, presets)
        self.panel = Panel(several=True)

    def connect(self, page: gr.Blocks) -> None:
        """Every event of the tab."""
        talk = self.talk

        def imported(place: Place, file: str) -> Seen:
            return talk.take_in(place, read_export(Path(file)))

        rest = [self.picker.box, *self.decoding.inputs]
        if self.fields:
            rest += self.fields.inputs
        written = [self.place, self.message, *rest]
        asking: Any = [
            self.send.click(self._on_send, written, self.outputs, **QUIET),
            self.message.submit(self._on_send, written, self.outputs, **QUIET),
            self.retry.click(self._on_retry, [self.place, *rest], self.outputs, **QUIET),
            self.chatbot.edit(self._on_edit, [self.place, *rest], self.outputs, **QUIET),
        ]
        for pressed in (self.send, self.shelf.new):
            pressed.click(None, js=FOCUS, **QUIET)
        stopping: dict[str, Any] = {"cancels": asking, "queue": False, **QUIET}
        self.stop.click(stopped, None, [self.status, self.send, self.stop, self.retry], **stopping)
        for event, action, *inputs in (
            (self.shelf.new.click, lambda place: talk.open(place, None)),
            (self.chatbot.clear, lambda place: talk.open(place, None)),
            (self.shelf.listed.input, talk.open, self.shelf.listed),
            (self.undo.click, talk.undo),
            (self.before.click, lambda place: talk.switch(place, -1)),
            (self.after.click, lambda place: talk.switch(place, 1)),
            (self.shelf.undelete.click, talk.restore, self.shelf.deleted),
            (self.shelf.upload.upload, imported, self.shelf.upload),
        ):  # a reply under way ends first, so that it cannot show itself afterwards
            self._on(event(nothing, None, None, **stopping).then, action, *inputs)
        self._on(self.earlier.click, talk.earlier)
        self._on(self.shelf.search.change, talk.find, self.shelf.search)
        self._on(self.shelf.rename.click, talk.rename, self.shelf.title)
        self._on(self.shelf.title.submit, talk.rename, self.shelf.title)
        self.shelf.delete.click(nothing, None, None, **stopping).then(
            self._on_delete, self.place, self.outputs, **QUIET
        )
        self.shelf.export.click(
            self._on_export, self.place, [self.shelf.files, self.status], **QUIET
        )
        self.chatbot.like(self._on_like, self.place, self.outputs, **QUIET)
        # In a tab drawn while the page is open, what the browser keeps is there a moment later.
        arrived = page.load(nothing, **QUIET).then(
            self._on_arrive, [self.kept, self.name], self.outputs,
            js=f"(kept, _) => [kept, {NAME}]", **QUIET,
        )  # fmt: skip
        self._connect_panels(arrived)

    def _connect_panels(self, arrived: Any) -> None:
        """What is below the message: persona, decoding, the inside of a reply."""
        for below in filter(None, (self.fields, self.decoding)):
            below.connect(arrived, self.place, lambda place: place.owner)
        panel, looked = self.panel, [self.status, *self.panel.outputs]
        here = [self.place, panel.number, self.picker.box]
        for event, by, scored in (
            (panel.box.expand, 0, False), (panel.before.click, -1, False),
            (panel.after.click, 1, False), (panel.score.click, 0, True),
        ):  # fmt: skip
            event(partial(self._on_inside, by=by, scored=scored), here, looked, **QUIET)

    def _on(self, event: Any, action: Callable[..., Seen], *inputs: Any) -> None:
        """An action that does not ask the model."""

        def handler(place: Place, *values: Any) -> Update:
            return self._told(place, lambda: action(place, *values))

        event(handler, [self.place, *inputs], self.outputs, **QUIET)

    # What the model is asked for.

    async def _on_send(self, place: Place, text: str, *values: Any) -> AsyncGenerator[Update, None]:
        way = await aside(self._way, place, values)
        async for update in self._streamed(place, self.talk.send(place, text, way)):
            yield update

    async def _on_retry(self, place: Place, *values: Any) -> AsyncGenerator[Update, None]:
        way = await aside(self._way, place, values)
        async for update in self._streamed(place, self.talk.retry(place, way)):
            yield update

    async def _on_edit(
        self, place: Place, data: gr.EditData, *values: Any
    ) -> AsyncGenerator[Update, None]:
        index: Any = data.index
        way = await aside(self._way, place, values)
        made = self.talk.edit(place, int(index), str(data.value), way)
        async for update in self._streamed(place, made):
            yield update

    @only_news
    async def _streamed(
        self, place: Place, news: AsyncGenerator[Seen, None]
    ) -> AsyncGenerator[Update, None]:
        """Updates as the reply grows; closing it frees the reply's slot. Whatever goes wrong, the
        last one says that it has ended."""
        if told := too_early(place.owner):
            yield {self.status: told}
            return
        try:
            async with aclosing(news):
                async for seen in news:
                    place = seen.place
                    yield self._update(seen)
        except Exception as error:  # else the tab waits for ever
            yield self._update(Seen(place, status=warning(error)))

    def _way(self, place: Place, values: Sequence[Any]) -> Way:
        """What is set in the tab."""
        model, rest, count = values[0], values[1:], len(self.decoding.inputs)
        decoding, filled = rest[:count], rest[count:]
        choose = partial(decoding_from, self.plugin.decoding, decoding[1:])
        preset = self.decoding.name_of(place.owner, decoding)
        if self.fields is None:
            return Way({}, choose, model, preset=preset)
        persona = self.fields.name_of(place.owner, filled)
        return Way(values_of(self.others, filled[1:]), choose, model, persona, preset)

    async def _on_inside(
        self, place: Place, number: int, model: str, by: int, scored: bool
    ) -> Update:
        """The inside of a reply: that of the number, or so many after it."""
        try:
            inside = await self.talk.inside(place, number + by, model, scored=scored)
        except Exception as error:  # else the tab shows nothing at all
            return {self.status: warning(error)}
        return {self.status: "", **self.panel.update(inside)}

    # What it is not.

    def _on_arrive(self, kept: dict[str, str] | None, name: str) -> Update:
        known = kept if isinstance(kept, dict) else {}
        owner = owner_on_page(self.talk.store, str(known.get("visitor") or name))
        conversation = str(known.get("conversation") or "")
        return self._told(Place(owner), lambda: self.talk.arrive(owner, conversation))

    def _on_like(self, place: Place, data: gr.LikeData) -> Update:
        index: Any = data.index
        return self._told(place, lambda: self.talk.rate(place, int(index), data.liked))

    def _on_delete(self, place: Place) -> Update:
        update = self._told(place, lambda: self.talk.delete(place))
        if place.conversation:
            update |= self.shelf.gone(place.conversation)
        return update

    def _on_export(self, place: Place) -> Update:
        """Two files to download: as Markdown, and as JSON with every branch."""
        try:
            whole = self.talk.export(place)
        except LmappsError as error:
            return {self.status: warning(error)}
        return {**self.shelf.exported(whole), self.status: ""}

    # What is shown.

    def _told(self, place: Place, action: Callable[[], Seen]) -> Update:
        """What there is to see after an action, or why it could not be done."""
        if told := too_early(place.owner):
            return {self.status: told}
        try:
            return self._update(action())
        except Exception as error:  # else the tab shows nothing at all
            return self._update(Seen(place, status=warning(error)))

    def _update(self, seen: Seen) -> Update:
        place, update = seen.place, dict[Any, Any]()
        update[self.place] = place
        update |= zip((self.send, self.stop, self.retry), buttons(not seen.busy), strict=True)
        if seen.status is not None:
            update[self.status] = seen.status
        if seen.message is not None:
            update[self.message] = seen.message
        update |= self.shelf.update(seen)
        if seen.title is not None:
            update[self.kept] = {"visitor": place.owner, "conversation": place.conversation or ""}
        if seen.inside is not None:
            update |= self.panel.update(seen.inside)
        if seen.turns is not None:
            number, count = seen.version or (1, 1)
            update[self.chatbot] = gr.update(
                value=[{"role": turn.role, "content": turn.content} for turn in seen.turns],
                feedback_value=_ratings(seen.turns),
            )
            update[self.earlier] = gr.update(visible=seen.earlier > 0)
            update[self.versions] = gr.update(visible=count > 1)
            update[self.version] = word("Version {number} of {count}", number=number, count=count)
        return update


def _ratings(turns: Sequence[Turn]) -> list[str | None]:
    """What was thought of each reply, in the words of the chat component."""
    words = {1: "Like", -1: "Dislike"}
    return [words.get(turn.rating or 0) for turn in turns if turn.role == "assistant"]
