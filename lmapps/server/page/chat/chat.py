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
from lmapps.server.page.chat.dialogue import Dialogue
from lmapps.server.page.chat.inside import Panel
from lmapps.server.page.chat.saved import Place, place_from
from lmapps.server.page.chat.seen import Seen
from lmapps.server.page.chat.shelf import Shelf
from lmapps.server.page.chat.talk import Talk
from lmapps.server.page.forms.forms import buttons, stopped
from lmapps.server.page.languages import word
from lmapps.server.page.live import Update, nothing, only_news, too_early, warning
from lmapps.server.page.picker import Picker
from lmapps.server.page.presets import decoding_panel, fields_panel
from lmapps.server.page.visitor import NAME, Visitor
from lmapps.server.page.way import Way
from lmapps.server.page.widgets import (
    CHOICE,
    FOCUS,
    QUIET,
    chat_examples,
    decoding_from,
    values_of,
)
from lmapps.server.store.exported import read_export
from lmapps.server.store.presets import Presets


def chat_tab(
    plugin: Plugin, picker: Picker, visitor: Visitor, page: gr.Blocks, tab: gr.Tab | None = None
) -> None:
    """Build the tab inside the `gr.Tab` that is open; see `ChatTab.connect`."""
    ChatTab(plugin, picker, visitor).connect(page, tab)


class ChatTab:
    """The components of one chat tab, and what happens when they are pressed."""

    def __init__(self, plugin: Plugin, picker: Picker, visitor: Visitor) -> None:
        self.plugin, self.picker, self.visitor = plugin, picker, visitor
        self.talk = Talk(plugin, picker.models, visitor.store)
        self.others = [field for field in plugin.fields if field.kind != "messages"]
        self.place = gr.Textbox(visible="hidden")
        """Where the tab stands, as `Place.as_text` has it."""
        self.extent = gr.Textbox(visible="hidden")
        """How much it shows, as `Place.extent` has it."""
        self.kept = gr.Textbox(visible="hidden")
        """The same as the browser kept it, while the tab is opened."""
        with gr.Row():
            with gr.Column(scale=1, min_width=200, elem_classes="chat-list"):
                self.shelf = Shelf()
            with gr.Column(scale=4, min_width=300):
                self._build_chat(Presets(visitor.store.database))
        self.here = [
            visitor.box, self.place, self.panel.looks, self.extent, self.shelf.search,
        ]  # fmt: skip
        """What every event begins with: whose page it is, and where it stands."""
        self.outputs = [
            self.place, self.extent, *self.shelf.outputs, *self.dialogue.outputs, self.status,
            self.message, self.send, self.stop, self.retry, *self.panel.outputs,
        ]  # fmt: skip

    def _build_chat(self, presets: Presets) -> None:
        plugin = self.plugin
        self.dialogue = Dialogue(plugin)
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

    def connect(self, page: gr.Blocks, tab: gr.Tab | None = None) -> None:
        """Every event.

        tab  the one whose opening is waited for before anything is looked up; None = at once
        """
        talk, here, dialogue = self.talk, self.here, self.dialogue
        filled = self.fields.inputs if self.fields else []
        rest = [self.picker.box, *self.decoding.inputs, *filled]
        written = [*here, self.message, *rest]
        asking: Any = [
            self.send.click(self._on_send, written, self.outputs, **QUIET),
            self.message.submit(self._on_send, written, self.outputs, **QUIET),
            self.retry.click(self._on_retry, [*here, *rest], self.outputs, **QUIET),
            dialogue.chatbot.edit(self._on_edit, [*here, *rest], self.outputs, **QUIET),
        ]
        dialogue.empties(self.message)
        for pressed in (self.send, self.shelf.new):
            pressed.click(None, js=FOCUS, **QUIET)
        stopping: dict[str, Any] = {"cancels": asking, "queue": False, **QUIET}
        self.stop.click(stopped, None, [self.status, self.send, self.stop, self.retry], **stopping)
        for event, action, *inputs in (
            (self.shelf.new.click, lambda place: talk.open(place, None)),
            (self.undo.click, talk.undo),
            (dialogue.before.click, lambda place: talk.switch(place, -1)),
            (dialogue.after.click, lambda place: talk.switch(place, 1)),
            (self.shelf.undelete.click, talk.restore, self.shelf.deleted),
            (self.shelf.upload.upload, self._imported, self.shelf.upload),
        ):  # a reply under way ends first, so that it cannot show itself afterwards
            self._on(event(nothing, None, None, **stopping).then, action, *inputs)
        opened = self.shelf.listed.input(nothing, None, None, **{**stopping, **CHOICE})
        self._on(opened.then, talk.open, self.shelf.listed, how=CHOICE)
        self._on(dialogue.earlier.click, talk.earlier, is_beside=True)
        self._on(self.shelf.search.change, talk.find, is_beside=True)
        self._on(self.shelf.longer.click, talk.longer, is_beside=True)
        for event in (self.shelf.rename.click, self.shelf.title.submit):
            self._on(event, talk.rename, self.shelf.title, is_beside=True)
        gone = self.shelf.delete.click(nothing, None, None, **stopping)
        gone.then(self._on_delete, here, self.outputs, **QUIET)
        self.shelf.export.click(self._on_export, here, [self.shelf.files, self.status], **QUIET)
        dialogue.chatbot.like(self._on_like, here, self.outputs, **QUIET)
        arriving, key = tab.select if tab else page.load, f"lmapps-place-{self.plugin.name}"
        arriving(
            self._on_arrive, [*here, self.kept], self.outputs,
            js=f"(_, ...here) => [{NAME}, ...here.slice(0, -1), lmapps.remembered({key!r}) ?? '']",
            **QUIET,
        )  # fmt: skip
        self.place.change(
            None, self.place, js=f"place => {{ lmapps.remember({key!r}, place); }}", **QUIET
        )
        self._connect_panels(page)

    def _connect_panels(self, page: gr.Blocks) -> None:
        """What is below the message: persona, decoding, the inside of a reply."""
        for below in filter(None, (self.fields, self.decoding)):
            below.connect(page, self.visitor)
        panel, looked = self.panel, [self.status, *self.panel.outputs]
        here = [*self.here, panel.number, self.picker.box]
        for event, by, scored in (
            (panel.box.expand, None, False), (panel.before.click, -1, False),
            (panel.after.click, 1, False), (panel.score.click, 0, True),
        ):  # fmt: skip
            event(partial(self._on_inside, by=by, scored=scored), here, looked, **QUIET)

    def _on(
        self, event: Any, action: Callable[..., Seen], *inputs: Any, is_beside: bool = False,
        how: dict[str, Any] = QUIET,
    ) -> None:  # fmt: skip
        """An action that does not ask the model. Its inputs stay as they are: somebody may have
        changed them meanwhile.

        is_beside  whether a reply under way goes on meanwhile
        """

        def handler(*values: Any) -> Update:
            place, rest = self._stands(values)
            update = self._told(place, lambda: action(place, *rest), is_beside)
            return {part: news for part, news in update.items() if part not in inputs}

        event(handler, [*self.here, *inputs], self.outputs, **how)

    def _stands(self, values: Sequence[Any]) -> tuple[Place, Sequence[Any]]:
        """The values of an event -> where the tab stands, and the rest. Whose it is nobody can
        choose where people have accounts; else a browser's name is as good as a password."""
        name, *here = values[: len(self.here)]
        return place_from(here[0], self.visitor.owner(name), *here[1:]), values[len(self.here) :]

    # What the model is asked for.

    async def _on_send(self, *values: Any) -> AsyncGenerator[Update, None]:
        place, (text, *rest) = self._stands(values)
        way = await self._way(place, rest)
        async for update in self._streamed(place, self.talk.send(place, text, way)):
            yield update

    async def _on_retry(self, *values: Any) -> AsyncGenerator[Update, None]:
        place, rest = self._stands(values)
        way = await self._way(place, rest)
        async for update in self._streamed(place, self.talk.retry(place, way)):
            yield update

    async def _on_edit(self, data: gr.EditData, *values: Any) -> AsyncGenerator[Update, None]:
        place, rest = self._stands(values)
        index: Any = data.index
        way = await self._way(place, rest)
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

    async def _way(self, place: Place, values: Sequence[Any]) -> Way:
        """What is set in the tab."""
        model, rest, count = values[0], values[1:], len(self.decoding.inputs)
        decoding, filled = rest[:count], rest[count:]
        choose = partial(decoding_from, self.plugin.decoding, decoding[1:])
        preset = await self.decoding.named(place.owner, decoding)
        if self.fields is None:
            return Way({}, choose, model, preset=preset)
        persona = await self.fields.named(place.owner, filled)
        return Way(values_of(self.others, filled[1:]), choose, model, persona, preset)

    async def _on_inside(self, *values: Any, by: int | None, scored: bool) -> Update:
        """The inside of a reply: so many after that of the number; None = of the last one."""
        place, (number, model) = self._stands(values)
        wanted = None if by is None else number + by
        try:
            inside = await self.talk.inside(place, wanted, model, scored=scored)
        except Exception as error:  # else the tab shows nothing at all
            return {self.status: warning(error)}
        return {self.status: "", **self.panel.update(inside)}

    # What it is not.

    def _on_arrive(self, name: str, here: str, looks: bool, *rest: str) -> Update:
        """What there is to see when the tab is opened; `rest` ends with where the browser stood."""
        if here:  # it was open already
            return {self.status: gr.skip()}
        place = place_from(rest[-1], self.visitor.arrived(name), looks)
        return self._told(place, lambda: self.talk.arrive(place))

    def _on_like(self, data: gr.LikeData, *values: Any) -> Update:
        place, _ = self._stands(values)
        index: Any = data.index
        return self._told(place, lambda: self.talk.rate(place, int(index), data.liked), True)

    def _imported(self, place: Place, file: str) -> Seen:
        return self.talk.take_in(place, read_export(Path(file)))

    def _on_delete(self, *values: Any) -> Update:
        place, _ = self._stands(values)
        update = self._told(place, lambda: self.talk.delete(place))
        if place.conversation:
            update |= self.shelf.gone(place.conversation)
        return update

    def _on_export(self, *values: Any) -> Update:
        """Two files to download: as Markdown, and as JSON with every branch."""
        try:
            whole = self.talk.export(self._stands(values)[0])
        except LmappsError as error:
            return {self.status: warning(error)}
        return {**self.shelf.exported(whole), self.status: ""}

    # What is shown.

    def _told(self, place: Place, action: Callable[[], Seen], is_beside: bool = False) -> Update:
        """What there is to see after an action, or why it could not be done."""
        if told := too_early(place.owner):
            return {self.status: told}
        try:
            seen = action()
        except Exception as error:  # else the tab shows nothing at all
            seen = Seen(place, status=warning(error), busy=None if is_beside else False)
        return self._update(seen) | {self.extent: seen.place.extent()}

    def _update(self, seen: Seen) -> Update:
        place, update = seen.place, dict[Any, Any]()
        if seen.busy is not None:
            update[self.place] = place.as_text()
            update |= zip((self.send, self.stop, self.retry), buttons(not seen.busy), strict=True)
        if seen.status is not None:
            update[self.status] = seen.status
        if seen.message is not None:
            update[self.message] = seen.message
        update |= self.shelf.update(seen) | self.dialogue.update(seen)
        if seen.inside is not None and place.looks:
            update |= self.panel.update(seen.inside)
        return update
