"""A plugin that takes a conversation -> the chat tab: what there is to press, and what it shows."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from lmapps.errors import LmappsError
from lmapps.fields import Messages
from lmapps.plugin import Plugin
from lmapps.server.page.forms import buttons, stopped
from lmapps.server.page.languages import plugin_word, word
from lmapps.server.page.live import Update, only_news, warning
from lmapps.server.page.picker import Picker
from lmapps.server.page.saved import Place
from lmapps.server.page.saw import Saw
from lmapps.server.page.talk import Seen, Talk
from lmapps.server.page.widgets import (
    PRIVATE,
    decoding_controls,
    decoding_from,
    examples,
    values_of,
    widget,
)
from lmapps.server.store.conversation import Turn
from lmapps.server.store.exported import Exports, read_export
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
        self.talk, self.exports = Talk(plugin, picker.models, store), Exports()
        self.others = [field for field in self.plugin.fields if field.kind != "messages"]
        self.place, self.deleted = gr.State(Place()), gr.State(None)
        self.kept = gr.BrowserState(
            {"visitor": "", "conversation": ""},
            storage_key=f"lmapps-{self.plugin.name}",
            secret="lmapps",
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=200, elem_classes="chat-list"):
                self._build_list()
            with gr.Column(scale=4, min_width=300):
                self._build_chat()
        self.outputs = [
            self.place, self.kept, self.listed, self.title, self.undelete, self.deleted,
            self.earlier, self.chatbot, self.versions, self.version, self.status, self.message,
            self.send, self.stop, self.retry, *self.saw.outputs,
        ]  # fmt: skip

    def _build_list(self) -> None:
        self.new = gr.Button(word("New chat"), size="sm")
        self.search = gr.Textbox(
            label=word("Search conversations"), placeholder=word("Search"), elem_id="search",
            show_label=False, container=False,
        )  # fmt: skip
        self.listed = gr.Radio([], label=word("Conversations"), elem_id="conversations")
        self.undelete = gr.Button(word("Undo delete"), size="sm", visible=False)
        with gr.Accordion(word("This conversation"), open=False):
            self.title = gr.Textbox(label=word("Title"), max_lines=1, elem_id="title")
            self.rename = gr.Button(word("Rename"), size="sm")
            self.export = gr.Button(word("Export"), size="sm")
            self.files = gr.Files(visible=False, show_label=False, elem_id="exported")
            self.delete = gr.Button(word("Delete"), size="sm", variant="stop")
        self.upload = gr.UploadButton(word("Import"), file_types=[".json"], size="sm")

    def _build_chat(self) -> None:
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
            self.send = gr.Button(word("Send"), variant="primary", min_width=60)
            self.stop = gr.Button(
                word("Stop"), variant="stop", interactive=False, min_width=60,
                elem_classes="stop-reply",
            )  # fmt: skip
            self.retry = gr.Button(word("Retry"), interactive=False, min_width=60)
            self.undo = gr.Button(word("Undo"), min_width=60)
        self.inputs = [widget(field, shown) for field in self.others]
        self._build_examples()
        self.controls = decoding_controls(plugin.decoding)
        self.saw = Saw()

    def _build_examples(self) -> None:
        """Rows that fill in the message box and the other fields, as far as any row says more
        than the defaults."""
        plugin, others = copy(self.plugin), iter(self.inputs)
        fields = plugin.fields
        boxes = [self.message if f.kind == "messages" else next(others) for f in fields]
        plugin.examples = [
            [
                _last_said(value) if f.kind == "messages" else value
                for f, value in zip(fields, row, strict=True)
            ]
            for row in plugin.examples
        ]
        used = [
            number for row in plugin.examples for number, field in enumerate(fields)
            if field.kind == "messages" or row[number] != field.default
        ]  # fmt: skip
        examples(plugin, boxes[: max(used, default=0) + 1])

    def connect(self, page: gr.Blocks) -> None:
        """Every event of the tab."""
        talk = self.talk
        rest = [self.picker.box, *self.inputs, *self.controls]
        written = [self.place, self.message, *rest]
        asking: Any = [
            self.send.click(self._on_send, written, self.outputs, **QUIET),
            self.message.submit(self._on_send, written, self.outputs, **QUIET),
            self.retry.click(self._on_retry, [self.place, *rest], self.outputs, **QUIET),
            self.chatbot.edit(self._on_edit, [self.place, *rest], self.outputs, **QUIET),
        ]
        stopping: dict[str, Any] = {"cancels": asking, "queue": False, **QUIET}
        self.stop.click(stopped, None, [self.status, self.send, self.stop, self.retry], **stopping)
        for event, action, *inputs in (
            (self.new.click, lambda place: talk.open(place, None)),
            (self.chatbot.clear, lambda place: talk.open(place, None)),
            (self.listed.input, talk.open, self.listed),
            (self.undo.click, talk.undo),
            (self.before.click, lambda place: talk.switch(place, -1)),
            (self.after.click, lambda place: talk.switch(place, 1)),
            (self.undelete.click, talk.restore, self.deleted),
            (self.upload.upload, self._imported, self.upload),
        ):  # a reply under way ends first, so that it cannot show itself afterwards
            self._on(event(_nothing, None, None, **stopping).then, action, *inputs)
        self._on(self.earlier.click, talk.earlier)
        self._on(self.search.change, self._found, self.search)
        self._on(self.rename.click, talk.rename, self.title)
        self._on(self.title.submit, talk.rename, self.title)
        self.delete.click(_nothing, None, None, **stopping).then(
            self._on_delete, self.place, self.outputs, **QUIET
        )
        self.export.click(self._on_export, self.place, [self.files, self.status], **QUIET)
        self.chatbot.like(self._on_like, self.place, self.outputs, **QUIET)
        # In a tab drawn while the page is open, what the browser keeps is there a moment later.
        page.load(_nothing, **QUIET).then(self._on_arrive, self.kept, self.outputs, **QUIET)

    def _on(self, event: Any, action: Callable[..., Seen], *inputs: Any) -> None:
        """An action that does not ask the model."""

        def handler(place: Place, *values: Any) -> Update:
            return self._told(place, lambda: action(place, *values))

        event(handler, [self.place, *inputs], self.outputs, **QUIET)

    # What the model is asked for.

    async def _on_send(self, place: Place, text: str, *values: Any) -> AsyncGenerator[Update, None]:
        async for update in self._streamed(place, self.talk.send(place, text, *self._set(values))):
            yield update

    async def _on_retry(self, place: Place, *values: Any) -> AsyncGenerator[Update, None]:
        async for update in self._streamed(place, self.talk.retry(place, *self._set(values))):
            yield update

    async def _on_edit(
        self, place: Place, data: gr.EditData, *values: Any
    ) -> AsyncGenerator[Update, None]:
        made = self.talk.edit(place, int(data.index), str(data.value), *self._set(values))  # type: ignore[arg-type]
        async for update in self._streamed(place, made):
            yield update

    @only_news
    async def _streamed(
        self, place: Place, news: AsyncGenerator[Seen, None]
    ) -> AsyncGenerator[Update, None]:
        """Updates as the reply grows; closing it frees the reply's slot. Whatever goes wrong, the
        last one says that it has ended."""
        asked = None
        try:
            async with aclosing(news):
                async for seen in news:
                    panel = zip(self.saw.outputs, self.saw.update(seen.asked, asked), strict=True)
                    place, asked = seen.place, seen.asked
                    yield self._update(seen) | dict(panel)
        except Exception as error:  # else the tab waits for ever
            yield self._update(Seen(place, status=warning(error)))

    def _set(self, values: Sequence[Any]) -> tuple[dict[str, Any], Callable[[], Any], str]:
        """The tab's other fields, its decoding settings, and the model that is chosen."""
        model, rest, count = values[0], values[1:], len(self.others)
        fields, changed = values_of(self.others, rest[:count]), rest[count:]
        return fields, lambda: decoding_from(self.plugin.decoding, changed), model

    def _on_arrive(self, kept: dict[str, str] | None) -> Update:
        known = kept if isinstance(kept, dict) else {}
        owner = owner_on_page(self.talk.store, str(known.get("visitor") or ""))
        conversation = str(known.get("conversation") or "")
        return self._told(Place(owner), lambda: self.talk.arrive(owner, conversation))

    def _on_like(self, place: Place, data: gr.LikeData) -> Update:
        index: Any = data.index
        return self._told(place, lambda: self.talk.rate(place, int(index), data.liked))

    def _on_delete(self, place: Place) -> Update:
        update = self._told(place, lambda: self.talk.delete(place))
        if place.conversation:
            update |= {self.deleted: place.conversation, self.undelete: gr.update(visible=True)}
        return update

    def _on_export(self, place: Place) -> Update:
        """Two files to download: as Markdown, and as JSON with every branch."""
        try:
            whole = self.talk.export(place)
        except LmappsError as error:
            return {self.status: warning(error)}
        shown = self.exports.write(whole)
        return {self.files: gr.update(value=shown, visible=True), self.status: ""}

    def _imported(self, place: Place, file: str) -> Seen:
        return self.talk.take_in(place, read_export(Path(file)))

    def _found(self, place: Place, search: str) -> Seen:
        return Seen(place, listed=self.talk.listed(place, search))

    # What is shown.

    def _told(self, place: Place, action: Callable[[], Seen]) -> Update:
        """What there is to see after an action, or why it could not be done."""
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
        if seen.listed is not None:
            choices = [(item.title or word("Untitled"), item.id) for item in seen.listed]
            update[self.listed] = gr.update(choices=choices, value=place.conversation)
        elif seen.title is not None:
            update[self.listed] = gr.update(value=place.conversation)
        if seen.title is not None:
            update[self.title] = seen.title
            update[self.kept] = {"visitor": place.owner, "conversation": place.conversation or ""}
            update[self.undelete] = gr.update(visible=False)
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


def _nothing() -> None:
    """For an event that only ends others."""


def _last_said(messages: str | Messages) -> str:
    """What stands in the message box for an example's conversation."""
    return messages if isinstance(messages, str) else messages[-1]["content"]


def _ratings(turns: Sequence[Turn]) -> list[str | None]:
    """What was thought of each reply, in the words of the chat component."""
    words = {1: "Like", -1: "Dislike"}
    return [words.get(turn.rating or 0) for turn in turns if turn.role == "assistant"]
