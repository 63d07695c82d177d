"""Training runs -> where one is watched, paused, resumed, ended and chatted with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import gradio as gr

from lmapps.errors import LmappsError
from lmapps.server.api.runs import VERSION
from lmapps.server.managing import check_page
from lmapps.server.page.languages import word
from lmapps.server.page.live import Update, warning
from lmapps.server.page.picker import Picker
from lmapps.server.page.widgets import CHOICE, QUIET
from lmapps.server.page.workshop.runview import STATES, compared_html, empty_html, run_html
from lmapps.server.page.workshop.switch import SHOW_CHAT, fresh
from lmapps.training.against import can_compare, compare, compared
from lmapps.training.look import Look
from lmapps.training.runs import NoSuchRun, Runs

LOOK_SECONDS = 2.0
"""How often a page that shows the tab asks whether a run has changed."""

# Asked without Gradio's queue, and only while somebody looks: a hidden tab has no offsetParent.
ASK = f"""async (seen) => {{
    if (document.hidden || !document.querySelector("#run-view")?.offsetParent) return seen;
    try {{
        const answer = await fetch("{VERSION}");
        return answer.ok ? await answer.text() : seen;
    }} catch {{ return seen; }}
}}"""


class Watching:
    """The components, and what happens when they are pressed."""

    def __init__(self, runs: Runs, picker: Picker) -> None:
        self.runs, self.picker = runs, picker
        self.chosen = gr.Dropdown([], label=word("Run"), elem_id="run", visible=False)
        with gr.Row(elem_classes="run-buttons"):
            self.pause = gr.Button(word("Pause"), visible=False, min_width=90)
            self.resume = gr.Button(word("Resume"), visible=False, min_width=90)
            self.stop = gr.Button(word("Stop and keep"), variant="stop", visible=False)
            self.chat = gr.Button(word("Chat with it"), variant="primary", visible=False)
            self.compare = gr.Button(word("Compare with before"), visible=False)
            self.forget = gr.Button(word("Delete"), variant="stop", visible=False, min_width=90)
        self.status = gr.Markdown(elem_classes="status", elem_id="run-status")
        self.back = gr.Button(visible=False, size="sm", elem_id="run-back")
        self.scores = gr.HTML(elem_id="run-scores")
        self.view = gr.HTML(elem_id="run-view")
        self.before = gr.State("")
        with gr.Accordion(word("What it printed"), open=False, visible=False) as self.folded:
            self.output = gr.Textbox(
                show_label=False, label=word("What it printed"), lines=4, max_lines=12,
                interactive=False,
            )  # fmt: skip
        self.seen = gr.Textbox(visible="hidden")
        self.outputs = [
            self.chosen, self.view, self.pause, self.resume, self.stop, self.chat, self.compare,
            self.forget, self.status, self.scores, self.folded, self.output,
        ]  # fmt: skip

    def connect(self, tab: gr.Tab) -> None:
        """Every event."""
        gr.Timer(LOOK_SECONDS).tick(None, self.seen, self.seen, js=ASK, **QUIET)
        looked = [self.seen.change, self.chosen.input, tab.select]
        gr.on(looked, self._on_look, self.chosen, self.outputs, **CHOICE)
        for button, action in (
            (self.pause, self._paused),
            (self.resume, self._resumed),
            (self.stop, self._stopped),
            (self.forget, self._forgotten),
        ):
            self._on(button.click, action)
        self.compare.click(self._on_compare, self.chosen, self.outputs, **QUIET)
        picker = [self.picker.box, self.picker.about]
        switched = [*picker, self.status, self.back, self.before]
        self.chat.click(
            self._on_chat, [self.chosen, self.picker.box], switched, **QUIET
        ).success(None, None, None, js=SHOW_CHAT, **QUIET)  # fmt: skip
        self.back.click(self._on_back, self.before, switched, **QUIET)

    def shown(self, name: str | None, status: str | None = None, choose: bool = True) -> Update:
        """What there is to see of a run; of the newest one where it is not there.

        choose  also where the name is the chosen one: a look that was under way while somebody
                started a run must not take them back to the one before

        Raises `NotAllowed`.
        """
        check_page()
        try:
            looks = [self.runs.look(each) for each in self.runs.names()]
            look = next((each for each in looks if each.name == name), looks[0] if looks else None)
        except NoSuchRun:  # it went away meanwhile
            looks, look = [], None
        update: Update = {} if status is None else {self.status: status}
        choices = [(f"{each.name} · {word(STATES[each.state])}", each.name) for each in looks]
        update[self.chosen] = gr.update(choices=choices, visible=bool(looks))
        if choose or look is None or look.name != name:
            update[self.chosen]["value"] = look.name if look else None
        update[self.view] = run_html(look) if look else empty_html()
        table = compared(look) if look else None
        update[self.scores] = compared_html(*table) if table else ""
        return update | self._buttons(look)

    def _buttons(self, look: Look | None) -> Update:
        """What can be done with it as it is, and what it printed."""
        state = look.state if look else ""
        is_live = look is not None and look.is_live
        has_weights = look is not None and look.has_weights
        can = {
            self.pause: is_live and state != "scoring",
            self.resume: state in ("paused", "stopped", "failed"),
            self.stop: state in ("starting", "training"),
            self.chat: has_weights,
            self.compare: look is not None and can_compare(look),
            self.forget: look is not None and not is_live and not has_weights,
        }
        update: Update = {button: gr.update(visible=is_there) for button, is_there in can.items()}
        update[self.folded] = gr.update(visible=bool(look and look.output))
        update[self.output] = look.output if look else ""
        return update

    def _on(self, event: Any, action: Callable[[str], str]) -> None:
        """What changes a run: `action` does it and says so."""

        def handler(name: str | None) -> Update:
            try:
                check_page()
                status = action(name or "")
            except Exception as error:  # else the tab shows nothing at all
                status = warning(error)
            return self.shown(name, status)

        event(handler, self.chosen, self.outputs, **QUIET)

    def _on_look(self, name: str | None) -> Update:
        try:
            check_page()
            return self.shown(name, choose=False)
        except Exception as error:
            return {self.status: warning(error)}

    def _paused(self, name: str) -> str:
        self.runs.pause(name)
        return str(word("It pauses after the step under way, and loses nothing."))

    def _resumed(self, name: str) -> str:
        self.runs.resume(name)
        return str(word("It goes on where it stopped."))

    def _stopped(self, name: str) -> str:
        self.runs.stop(name)
        return str(word("It ends after the step under way, and its best weights stay."))

    def _forgotten(self, name: str) -> str:
        self.runs.forget(name)
        return str(word("The run is deleted: it had no weights yet."))

    async def _on_compare(self, name: str | None) -> AsyncGenerator[Update, None]:
        """Its scores beside those of the checkpoint before it, which takes a while."""
        try:
            check_page()
            look = self.runs.look(name or "")
            before = Path(look.settings["start_from"]).name
            told = word("{name} and {before} answer the rows that were kept apart, which takes a "
                        "minute or more ...", name=name, before=before)  # fmt: skip
            yield {self.status: told, self.compare: gr.update(interactive=False)}
            await asyncio.to_thread(compare, look)
            status = word("Scored on rows that were kept apart. {name} is still there: choose it "
                          "at the top to go back.", name=before)  # fmt: skip
        except Exception as error:  # else the tab waits for ever
            status = warning(error)
        update = self.shown(name, status)
        update[self.compare]["interactive"] = True
        yield update

    async def _on_chat(self, name: str, now: str) -> Update:
        """The best weights so far answer on this page, from here on."""
        check_page()
        try:
            fresh(self.picker.models, name)
            async with self.picker.models.use(name):
                about = await self.picker.chosen(name)
        except LmappsError as error:
            raise gr.Error(warning(error), print_exception=False) from None
        back = word("Back to {name}", name=now)
        return {
            self.picker.box: gr.update(choices=self.picker.models.names, value=name),
            self.picker.about: about,
            self.status: word("{name} answers on this page now.", name=name),
            self.back: gr.update(value=back, visible=now not in ("", name)),
            self.before: now,
        }

    async def _on_back(self, before: str) -> Update:
        return {
            self.picker.box: before,
            self.picker.about: await self.picker.chosen(before),
            self.status: word("{name} answers on this page now.", name=before),
            self.back: gr.update(visible=False),
        }
