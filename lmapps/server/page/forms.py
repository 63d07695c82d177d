"""A plugin -> its tab: a form on one side, the reply on the other."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

import gradio as gr

from lmapps.plugin import Plugin
from lmapps.server.page.languages import plugin_word, word
from lmapps.server.page.live import View, views
from lmapps.server.page.picker import Picker
from lmapps.server.page.saw import Saw
from lmapps.server.page.widgets import (
    PRIVATE,
    decoding_controls,
    decoding_from,
    examples,
    values_of,
    widget,
)


def form_tab(plugin: Plugin, picker: Picker) -> None:
    """Build the tab inside the `gr.Tab` that is open."""
    shown, form = partial(plugin_word, plugin), plugin.reply_form
    with gr.Row():
        with gr.Column(min_width=300):
            gr.Markdown(shown(plugin.help))
            inputs = [widget(field, shown) for field in plugin.fields]
            with gr.Row():
                run = gr.Button(word("Write"), variant="primary", min_width=80)
                stop = gr.Button(
                    word("Stop"), variant="stop", interactive=False, min_width=80,
                    elem_classes="stop-reply",
                )  # fmt: skip
                retry = gr.Button(word("Retry"), interactive=False, min_width=80)
            controls = decoding_controls(plugin.decoding)
        with gr.Column(min_width=300):
            component, options = form.component()
            reply = getattr(gr, component)(
                **options, elem_id=f"reply-{plugin.name}", elem_classes="reply"
            )
            status = gr.Markdown(elem_classes="status")
            saw = Saw()
            examples(plugin, inputs)

    async def write(model: str, *values: Any) -> AsyncGenerator[Any, None]:
        count = len(plugin.fields)
        fields, changed = values_of(plugin.fields, values[:count]), values[count:]
        choose = partial(decoding_from, plugin.decoding, changed)
        seen = views(picker.models, plugin, fields, choose, model)
        asked = None
        async with aclosing(seen) as shown:
            async for view in shown:
                writing = "" if form.streams or view.done or not view.text else word("Writing ...")
                seen_reply = form.shown(view.text, view.value)
                panel = saw.update(view.asked, asked)
                asked = view.asked
                yield seen_reply, view.status or writing, *buttons(view.done), *panel

    state = [status, run, stop, retry]
    outputs = [reply, *state, *saw.outputs]
    events: Any = [
        button.click(
            write, [picker.box, *inputs, *controls], outputs, show_progress="hidden", **PRIVATE
        )
        for button in (run, retry)
    ]
    stop.click(stopped, None, state, cancels=events, queue=False, **PRIVATE)


def buttons(done: bool) -> tuple[Any, Any, Any]:
    """What can be pressed while a reply is written, and after: write, stop, retry."""
    return gr.update(interactive=done), gr.update(interactive=not done), gr.update(interactive=done)


def stopped() -> tuple[Any, ...]:
    """The status and the buttons after Stop."""
    return View(status=word("Stopped.")).status, *buttons(True)
