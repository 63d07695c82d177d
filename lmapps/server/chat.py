"""A plugin that takes a conversation -> the chat tab: what there is to press, and what it shows."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from lmapps.engine.application import Application
from lmapps.errors import InputError, LmappsError
from lmapps.server.conversation import Turn
from lmapps.server.languages import word
from lmapps.server.live import warning
from lmapps.server.saved import Place
from lmapps.server.saw import Saw
from lmapps.server.store import Store
from lmapps.server.tabs import buttons, stopped
from lmapps.server.talk import Seen, Talk
from lmapps.server.widgets import (
    PRIVATE,
    decoding_controls,
    decoding_from,
    examples,
    values_of,
    widget,
)

CSS = """
.chat-list .wrap { flex-direction: column; flex-wrap: nowrap; max-height: 40vh; overflow-y: auto;
  gap: 2px; }
.chat-list label { width: 100%; }
.chat-list label input[type=radio] { display: none; }
.chat-list label span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.versions { flex-wrap: nowrap; align-items: center; justify-content: center; }
.versions > * { flex: none !important; width: auto; min-width: 0 !important; }
@media (min-width: 721px) { .chat-list { max-width: 240px; } }
@media (max-width: 720px) { .chat-list { order: 2; } }
"""
QUIET: dict[str, Any] = {"show_progress": "hidden", **PRIVATE}
LARGEST_IMPORT = 20_000_000
"""Bytes of an exported conversation."""

Update = dict[Any, Any]
"""Components and what they show from now on."""


def chat_tab(application: Application, page: gr.Blocks, store: Store) -> None:
    """Build the tab inside the `gr.Tab` that is open."""
    ChatTab(application, store).connect(page)


class ChatTab:
    """The components of one chat tab, and what happens when they are pressed."""

    def __init__(self, application: Application, store: Store) -> None:
        self.plugin = application.plugin
        self.talk = Talk(application, store)
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
        self.new = gr.Button("New chat", size="sm")
        self.search = gr.Textbox(
            label="Search conversations", placeholder="Search", elem_id="search",
            show_label=False, container=False,
        )  # fmt: skip
        self.listed = gr.Radio([], label="Conversations", elem_id="conversations")
        self.undelete = gr.Button("Undo delete", size="sm", visible=False)
        with gr.Accordion("This conversation", open=False):
            self.title = gr.Textbox(label="Title", max_lines=1, elem_id="title")
            self.rename = gr.Button("Rename", size="sm")
            self.export = gr.Button("Export", size="sm")
            self.files = gr.Files(visible=False, show_label=False, elem_id="exported")
            self.delete = gr.Button("Delete", size="sm", variant="stop")
        self.upload = gr.UploadButton("Import", file_types=[".json"], size="sm")

    def _build_chat(self) -> None:
        plugin, shown = self.plugin, partial(word, self.plugin)
        self.earlier = gr.Button("Show earlier messages", size="sm", visible=False)
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
            label="Message", show_label=False, placeholder="Write a message", max_lines=6,
            elem_id="message",
        )  # fmt: skip
        with gr.Row():
            self.send = gr.Button("Send", variant="primary", min_width=60)
            self.stop = gr.Button("Stop", variant="stop", interactive=False, min_width=60)
            self.retry = gr.Button("Retry", interactive=False, min_width=60)
            self.undo = gr.Button("Undo", min_width=60)
        examples(plugin, [self.message])
        self.inputs = [widget(field, shown) for field in self.others]
        self.controls = decoding_controls(plugin.decoding)
        self.saw = Saw(self.talk.application)

    def connect(self, page: gr.Blocks) -> None:
        """Every event of the tab."""
        talk = self.talk
        rest = [*self.inputs, *self.controls]
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

    async def _streamed(
        self, place: Place, news: AsyncGenerator[Seen, None]
    ) -> AsyncGenerator[Update, None]:
        """Updates as the reply grows; closing it frees the reply's slot."""
        asked = None
        try:
            async with aclosing(news):
                async for seen in news:
                    panel = zip(self.saw.outputs, self.saw.update(seen.asked, asked), strict=True)
                    place, asked = seen.place, seen.asked
                    yield self._update(seen) | dict(panel)
        except LmappsError as error:
            yield self._update(Seen(place, status=warning(error)))

    def _set(self, values: Sequence[Any]) -> tuple[dict[str, Any], Callable[[], Any]]:
        """The tab's other fields, and its decoding settings."""
        count = len(self.others)
        fields, changed = values_of(self.others, values[:count]), values[count:]
        return fields, lambda: decoding_from(self.plugin.decoding, changed)

    # What it is not.

    def _on_arrive(self, kept: dict[str, str] | None) -> Update:
        known = kept if isinstance(kept, dict) else {}
        visitor, conversation = (str(known.get(key) or "") for key in ("visitor", "conversation"))
        return self._told(Place(visitor), lambda: self.talk.arrive(visitor, conversation))

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
        folder = Path(tempfile.mkdtemp(prefix="lmapps-export-"))
        name = re.sub(r"[^\w-]+", "-", whole.title).strip("-")[:40] or "conversation"
        files = {f"{name}.md": whole.as_markdown()}
        files[f"{name}.json"] = json.dumps(whole.as_data(), ensure_ascii=False, indent=2)
        for file, content in files.items():
            (folder / file).write_text(content, encoding="utf-8")
        shown = [str(folder / file) for file in files]
        return {self.files: gr.update(value=shown, visible=True), self.status: ""}

    def _imported(self, place: Place, file: str) -> Seen:
        if Path(file).stat().st_size > LARGEST_IMPORT:
            raise InputError(f"the file is larger than {LARGEST_IMPORT:,} bytes")
        try:
            exported = json.loads(Path(file).read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            raise InputError(
                f"{Path(file).name} is not JSON: export a conversation first"
            ) from None
        return self.talk.take_in(place, exported)

    def _found(self, place: Place, search: str) -> Seen:
        return Seen(place, listed=self.talk.listed(place, search))

    # What is shown.

    def _told(self, place: Place, action: Callable[[], Seen]) -> Update:
        """What there is to see after an action, or why it could not be done."""
        try:
            return self._update(action())
        except LmappsError as error:
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
            choices = [(item.title or "Untitled", item.id) for item in seen.listed]
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
            update[self.version] = f"Version {number} of {count}"
        return update


def _nothing() -> None:
    """For an event that only ends others."""


def _ratings(turns: Sequence[Turn]) -> list[str | None]:
    """What was thought of each reply, in the words of the chat component."""
    words = {1: "Like", -1: "Dislike"}
    return [words.get(turn.rating or 0) for turn in turns if turn.role == "assistant"]
