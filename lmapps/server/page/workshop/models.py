"""The Models tab: what is there to be served, what it is, and how one more is got."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import gradio as gr

from lmapps.engine.entry import Description
from lmapps.model.inventory import stored_in
from lmapps.pull.known import KNOWN
from lmapps.server.managing import check_page
from lmapps.server.page.languages import word
from lmapps.server.page.live import Update, nothing, warning
from lmapps.server.page.picker import Picker
from lmapps.server.page.widgets import CHOICE, QUIET
from lmapps.server.page.workshop.modelview import STATES, megabytes, model_html
from lmapps.server.page.workshop.pulling import Pulling, bar_html
from lmapps.server.page.workshop.switch import SHOW_CHAT, Switch
from lmapps.training.runs import Runs


class ModelsTab:
    """The components, and what happens when they are pressed."""

    def __init__(self, picker: Picker, switch: Switch, runs: Runs) -> None:
        self.models, self.switch, self.picker, self.runs = picker.models, switch, picker, runs
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                self.chosen = gr.Radio(
                    [], label=word("Models"), elem_id="models", elem_classes="model-list"
                )
                self._build_get()
            with gr.Column(scale=3, min_width=300):
                self._build_one()
        self.outputs = [
            self.chosen, self.wanted, self.view, self.load, self.free, self.default, self.back,
            self.folded, self.card, self.status,
        ]  # fmt: skip

    def _build_get(self) -> None:
        with gr.Accordion(word("Get a model"), open=False):
            self.wanted = gr.Dropdown(
                [], value=None, allow_custom_value=True, label=word("Name"), elem_id="wanted",
                info=word("One of the list, OWNER/NAME of the Hugging Face Hub, or a path"),
            )  # fmt: skip
            self.licence = gr.Textbox(
                label=word("Licence"), max_lines=1, elem_id="licence",
                info=word("Of a model under none of the open ones, once you agreed to it"),
            )  # fmt: skip
            with gr.Row():
                self.get = gr.Button(word("Get it"), variant="primary", min_width=90)
                self.cancel = gr.Button(word("Stop"), interactive=False, min_width=90)
            self.progress = gr.HTML(elem_id="pulling")

    def _build_one(self) -> None:
        """The model that is chosen."""
        self.view = gr.HTML(elem_id="model-view")
        with gr.Row():
            self.chat = gr.Button(word("Chat with it"), variant="primary", min_width=110)
            self.load = gr.Button(word("Load"), min_width=80)
            self.free = gr.Button(word("Free its memory"), min_width=110)
            self.default = gr.Button(word("For everybody"), min_width=110)
        self.status = gr.Markdown(elem_classes="status", elem_id="model-status")
        self.back = gr.Button(visible=False, size="sm", elem_id="default-back")
        with gr.Accordion(word("Card"), open=False, visible=False) as self.folded:
            self.card = gr.Markdown()

    def connect(self, tab: gr.Tab) -> None:
        """Every event."""
        looked = [tab.select, self.chosen.input]
        gr.on(looked, self._on_look, self.chosen, self.outputs, **CHOICE)
        self.chat.click(
            self._on_chat, self.chosen,
            [self.picker.box, self.picker.about, *self.outputs], **QUIET
        ).success(None, None, None, js=SHOW_CHAT, **QUIET)  # fmt: skip
        self.load.click(self._on_load, self.chosen, self.outputs, **QUIET)
        self.free.click(self._on_free, self.chosen, self.outputs, **QUIET)
        self.default.click(self._on_default, self.chosen, self.outputs, **QUIET)
        self.back.click(self._on_back, self.chosen, self.outputs, **QUIET)
        got = [self.progress, self.get, self.cancel, *self.outputs]
        pulled = self.get.click(
            self._on_get, [self.wanted, self.licence, self.chosen], got, **QUIET
        )
        # In the queue, behind what the pull has told: nothing of it may be shown afterwards.
        self.cancel.click(nothing, None, None, cancels=[pulled], queue=False, **QUIET).then(
            self._on_cancel, None, [self.progress, self.get, self.cancel], **QUIET
        )

    def shown(self, name: str | None, status: str = "", choose: bool = True) -> Update:
        """What there is to see of a model; of the default one where it is not there.

        choose  also where the name is the chosen one: another may have been chosen meanwhile

        Raises `NotAllowed`.
        """
        check_page()
        found = {model.name: model for model in self.models.describe()}
        model = found.get(name or "") or found[self.models.default]
        folder = self.models.folder(model.name)
        stored = stored_in(folder) if folder else None
        is_default = model.name == self.models.default
        card = stored.card if stored else ""
        before = self.switch.before
        chosen = gr.update(choices=[(_line(each), each.name) for each in found.values()])
        if choose or model.name != name:
            chosen["value"] = model.name
        return {
            self.chosen: chosen,
            self.wanted: gr.update(
                choices=[
                    (f"{m.name} · {megabytes(m.download_bytes)} · {m.licence}", m.name)
                    for m in KNOWN
                    if m.name not in found
                ]
            ),
            self.view: model_html(
                model, stored, is_default, folder is not None and self.runs.has(folder)
            ),
            self.load: gr.update(visible=model.state == "not loaded"),
            self.free: gr.update(visible=model.state == "loaded"),
            self.default: gr.update(visible=not is_default),
            self.back: gr.update(
                value=word("Back to {name} for everybody", name=before), visible=bool(before)
            ),
            self.folded: gr.update(visible=bool(card)),
            self.card: card,
            self.status: status,
        }

    def _on_look(self, name: str | None) -> Update:
        try:
            check_page()
            return self.shown(name, choose=False)
        except Exception as error:  # else the tab shows nothing at all
            return {self.status: warning(error)}

    async def _on_load(self, name: str) -> Update:
        try:
            check_page()
            async with self.models.use(name):
                return self.shown(name, word("{name} is in memory.", name=name))
        except Exception as error:
            return self.shown(name, warning(error))

    async def _on_chat(self, name: str) -> Update:
        """For this page alone."""
        check_page()
        try:
            async with self.models.use(name):
                box = gr.update(choices=self.models.names, value=name)
                about = {self.picker.about: await self.picker.chosen(name)}
                return {self.picker.box: box, **about, **self.shown(name)}
        except Exception as error:
            raise gr.Error(warning(error), print_exception=False) from None

    def _on_free(self, name: str) -> Update:
        try:
            check_page()
            self.models.free(name)
            return self.shown(name, word("Its memory is free: it is loaded when it is asked for."))
        except Exception as error:
            return self.shown(name, warning(error))

    def _on_default(self, name: str) -> Update:
        return self._switched(name, lambda: self.switch.to(name))

    def _on_back(self, name: str) -> Update:
        return self._switched(name, self.switch.back)

    def _switched(self, name: str, action: Any) -> Update:
        try:
            check_page()
            action()
        except Exception as error:
            return self.shown(name, warning(error))
        told = word("{name} answers whoever chooses no other, also in the API.",
                    name=self.switch.now)  # fmt: skip
        return self.shown(name, told)

    async def _on_get(
        self, wanted: str | None, licence: str, chosen: str | None
    ) -> AsyncGenerator[Update, None]:
        """The bar as the model comes; leaving ends the pull, which leaves nothing behind."""
        busy = {self.get: gr.update(interactive=False), self.cancel: gr.update(interactive=True)}
        idle = {self.get: gr.update(interactive=True), self.cancel: gr.update(interactive=False)}
        try:
            check_page()
            pulling = Pulling((wanted or "").strip(), licence.strip())
            async for progress in pulling.events():
                yield {self.progress: bar_html(progress), **busy}
        except Exception as error:  # else the tab waits for ever
            yield {self.progress: bar_html(None, warning(error)), **idle}
            return
        name = pulling.folder.name
        told = word("{name} is here.", name=name)
        yield {self.progress: bar_html(None, told), **idle, **self.shown(name)}

    def _on_cancel(self) -> Update:
        return {
            self.progress: bar_html(None, word("Stopped.")),
            self.get: gr.update(interactive=True), self.cancel: gr.update(interactive=False),
        }  # fmt: skip


def _line(model: Description) -> str:
    """A model in the list."""
    return f"{model.name} · {word(STATES[model.state])}" + " · ⚠" * bool(model.trouble)
