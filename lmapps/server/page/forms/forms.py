"""A plugin -> its tab: a form on one side, the reply and the runs before it on the other."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

import gradio as gr

from lmapps.plugin import Plugin
from lmapps.server.page.chat.inside import Inside, Panel
from lmapps.server.page.forms.history import History
from lmapps.server.page.forms.writing import Writing, Written, lengths
from lmapps.server.page.languages import plugin_word, word
from lmapps.server.page.live import Update, View, only_news, warning
from lmapps.server.page.picker import Picker
from lmapps.server.page.presets import decoding_panel
from lmapps.server.page.visitor import NAME, Visitor
from lmapps.server.page.way import Way
from lmapps.server.page.widgets import (
    CHOICE,
    PRIVATE,
    QUIET,
    decoding_from,
    examples,
    value_again,
    values_of,
    widget,
)
from lmapps.server.store.aside import aside
from lmapps.server.store.presets import Presets
from lmapps.server.store.runs import Run, Runs

DOWNLOAD = """(value) => {{
    if (!value) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([{text}], {{ type: "text/plain" }}));
    link.download = {name};
    link.click();
    URL.revokeObjectURL(link.href);
}}"""
"""The browser has the reply already: no file is made on the server."""
COPY = "(value) => {{ if (value) navigator.clipboard?.writeText({text}); }}"
FILES = {
    "Markdown": ("md", "value"),
    "JSON": ("json", "JSON.stringify(value, null, 2)"),
    "Label": ("txt", "value.label"),
}
"""Of the components that have no download of their own: how the file's name ends, and its text in
JavaScript."""


def form_tab(
    plugin: Plugin, picker: Picker, visitor: Visitor, page: gr.Blocks, tab: gr.Tab | None = None
) -> None:
    """Build the tab inside the `gr.Tab` that is open; see `FormTab.connect`."""
    FormTab(plugin, picker, visitor).connect(page, tab)


class FormTab:
    """The components of one form's tab, and what happens when they are pressed."""

    def __init__(self, plugin: Plugin, picker: Picker, visitor: Visitor) -> None:
        self.plugin, self.form, self.picker = plugin, plugin.reply_form, picker
        self.visitor = visitor
        database = visitor.store.database
        self.writing = Writing(plugin, picker.models, Runs(database))
        self.shown = gr.Textbox(visible="hidden")
        """The run that is shown."""
        with gr.Row():
            with gr.Column(min_width=300):
                self._build_form(Presets(database))
            with gr.Column(min_width=300):
                self._build_reply()
        self.buttons = [self.run, self.stop, self.retry]
        self.outputs = [
            self.shown, self.reply, self.status, *self.buttons, *self.inputs,
            *self.panel.outputs, *self.history.outputs,
        ]  # fmt: skip

    def _build_form(self, presets: Presets) -> None:
        plugin, shown = self.plugin, partial(plugin_word, self.plugin)
        gr.Markdown(shown(plugin.help))
        self.inputs = [widget(field, shown) for field in plugin.fields]
        with gr.Row():
            self.run = gr.Button(word("Write"), variant="primary", min_width=80)
            self.stop = gr.Button(
                word("Stop"), variant="stop", interactive=False, min_width=80,
                elem_classes="stop-reply",
            )  # fmt: skip
            self.retry = gr.Button(word("Retry"), interactive=False, min_width=80)
        self.decoding = decoding_panel(plugin, presets)
        examples(plugin, self.inputs)

    def _build_reply(self) -> None:
        self.component, options = self.form.component()
        name = self.plugin.name
        self.reply = getattr(gr, self.component)(
            **options, elem_id=f"reply-{name}", elem_classes="reply"
        )
        self.status = gr.Markdown(
            word("Fill in the form and press Write: the reply appears here."),
            elem_classes="status",
        )
        if self.component in FILES:
            ending, text = FILES[self.component]
            download = DOWNLOAD.format(name=f'"{name}.{ending}"', text=text)
            with gr.Row():
                if self.component == "Label":  # the others copy by themselves
                    self._in_browser(word("Copy"), f"copy-{name}", COPY.format(text=text))
                self._in_browser(word("Download"), f"download-{name}", download)
        self.history = History(name)
        self.panel = Panel()

    def _in_browser(self, label: Any, id: str, js: str) -> None:
        """A button that does something with the reply, which the server is not asked for."""
        button = gr.Button(label, size="sm", min_width=80, elem_id=id)
        button.click(None, self.reply, None, js=js, **QUIET)

    def connect(self, page: gr.Blocks, tab: gr.Tab | None = None) -> None:
        """Every event.

        tab  the one whose opening is waited for before anything is looked up; None = at once
        """
        name = self.visitor.box
        asked = [name, self.picker.box, *self.inputs, *self.decoding.inputs]
        writing: Any = [
            button.click(self._on_write, asked, self.outputs, **QUIET)
            for button in (self.run, self.retry)
        ]
        for button in (self.run, self.retry):  # on a phone the reply is far below them
            button.click(None, js=f"() => lmapps.reveal('#reply-{self.plugin.name}')", **QUIET)
        state = [self.status, *self.buttons]
        self.stop.click(stopped, None, state, cancels=writing, queue=False, **QUIET).then(
            self._on_list, [name, self.shown], self.outputs, **QUIET
        )
        history, here = self.history, [name, self.shown, self.picker.box]
        history.runs.input(
            self._on_open, [name, history.runs, self.picker.box], self.outputs, **CHOICE
        )
        history.clear.click(self._on_clear, name, history.outputs, **QUIET)
        history.undo.click(self._on_restore, [name, history.cleared], history.outputs, **QUIET)
        self.panel.score.click(
            self._on_score, here, [self.status, *self.panel.outputs],
            show_progress="minimal", show_progress_on=self.panel.tokens, **PRIVATE,
        )  # fmt: skip
        arriving = tab.select if tab else page.load
        arriving(
            self._on_arrive, [name, self.shown], self.outputs,
            js=f"(name, shown) => [{NAME}, shown]", **QUIET,
        )  # fmt: skip
        self.decoding.connect(page, self.visitor)

    def _on_arrive(self, name: str, run: str) -> Update:
        return self._listed(self.visitor.arrived(name), run)

    @only_news
    async def _on_write(self, name: str, model: str, *values: Any) -> AsyncGenerator[Update, None]:
        owner = self.visitor.owner(name)
        count = len(self.plugin.fields)
        fields, decoding = values_of(self.plugin.fields, values[:count]), values[count:]
        preset = await self.decoding.named(owner, decoding)
        choose = partial(decoding_from, self.plugin.decoding, decoding[1:])
        way = Way(fields, choose, model, preset=preset)
        before: Written | None = None
        try:
            async with aclosing(self.writing.write(owner, way)) as news:
                async for now in news:
                    yield self._grown(way, now, before)
                    before = now
            yield await aside(self._listed, owner, before.run if before else None)
        except Exception as error:  # else the tab waits for ever
            yield {self.status: warning(error), **self._pressable(True)}

    def _grown(self, way: Way, now: Written, before: Written | None) -> Update:
        """What there is to see of a reply; what has not changed is not sent again."""
        view = now.view
        shown = self.form.shown(view.text, view.value)
        writing = word("Writing ...") if view.text and not self.form.streams else ""
        status = view.status or ("" if view.done else writing)
        update = {self.reply: shown, self.shown: now.run, **self._pressable(view.done)}
        if view.done:
            told = lengths(self.plugin, way, view.text)
            status = " ".join(filter(None, (status, told)))
        if view.done or before is None or view.asked is not before.view.asked:
            update |= self.panel.update(Inside(now.made, view.asked))
        return {**update, self.status: status}

    async def _on_open(self, name: str, run: str, model: str) -> Update:
        """A run of before: its fields, its reply, and how that came about."""
        owner = self.visitor.owner(name)
        try:
            kept = await aside(self.writing.open, owner, run)
            inside = await self.writing.inside(owner, run, model)
            update = {self.shown: run, self.reply: self._shown_again(kept), self.status: ""}
        except Exception as error:  # else the tab shows nothing at all
            return {self.status: warning(error)}
        for field, box in zip(self.plugin.fields, self.inputs, strict=True):
            update[box] = value_again(field, kept.fields)
        return {**update, **self.panel.update(inside), **self._pressable(True)}

    def _shown_again(self, kept: Run) -> Any:
        try:
            return self.form.shown(kept.reply, self.form.parse(kept.reply))
        except Exception:  # it was cut, or the plugin's reply has another form by now
            return self.form.shown(kept.reply, None)

    async def _on_score(self, name: str, run: str, model: str) -> Update:
        try:
            inside = await self.writing.inside(
                self.visitor.owner(name), run or None, model, scored=True
            )
        except Exception as error:  # else the tab shows nothing at all
            return {self.status: warning(error)}
        return {self.status: "", **self.panel.update(inside)}

    def _on_list(self, name: str, run: str) -> Update:
        return self._listed(self.visitor.owner(name), run)

    def _on_clear(self, name: str) -> Update:
        owner = self.visitor.owner(name)
        return self._listed(owner, cleared=self.writing.clear(owner))

    def _on_restore(self, name: str, cleared: float) -> Update:
        owner = self.visitor.owner(name)
        self.writing.restore(owner, cleared)
        return self._listed(owner)

    def _listed(self, owner: str, run: str | None = None, cleared: float | None = None) -> Update:
        return self.history.update(self.writing.last(owner), run, cleared)

    def _pressable(self, done: bool) -> Update:
        return dict(zip(self.buttons, buttons(done), strict=True))


def buttons(done: bool) -> tuple[Any, Any, Any]:
    """What can be pressed while a reply is written, and after: write, stop, retry."""
    return gr.update(interactive=done), gr.update(interactive=not done), gr.update(interactive=done)


def stopped() -> tuple[Any, ...]:
    """The status and the buttons after Stop."""
    return View(status=word("Stopped.")).status, *buttons(True)
