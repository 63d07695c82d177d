"""A plugin that takes a conversation -> the chat tab. The browser keeps the conversation."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

import gradio as gr

from lmapps.engine.application import Application
from lmapps.fields import Messages
from lmapps.server.languages import word
from lmapps.server.live import views
from lmapps.server.saw import Saw
from lmapps.server.tabs import buttons, stopped
from lmapps.server.widgets import (
    PRIVATE,
    decoding_controls,
    decoding_from,
    examples,
    values_of,
    widget,
)

Turns = list[dict[str, Any]]
Update = tuple[Any, ...]
"""The conversation, the message box, the status, the buttons and the panel of `Saw`."""


def chat_tab(application: Application, page: gr.Blocks) -> None:
    """Build the tab inside the `gr.Tab` that is open."""
    plugin = application.plugin
    shown = partial(word, plugin)
    chatbot = gr.Chatbot(
        label=shown(plugin.title), buttons=["copy"], height="55vh", elem_id=f"chat-{plugin.name}",
        placeholder=shown(plugin.help), allow_tags=False,
    )  # fmt: skip
    status = gr.Markdown(elem_classes="status")
    message = gr.Textbox(
        show_label=False, placeholder="Write a message", max_lines=6, elem_id="message"
    )
    with gr.Row():
        send = gr.Button("Send", variant="primary", min_width=80)
        stop = gr.Button("Stop", variant="stop", interactive=False, min_width=80)
        retry = gr.Button("Retry", interactive=False, min_width=80)
        clear = gr.Button("New chat", min_width=80)
    examples(plugin, [message])
    inputs = [widget(f, shown) for f in plugin.fields if f.kind != "messages"]
    controls = decoding_controls(plugin.decoding)
    saw = Saw(application)
    kept = gr.BrowserState([], storage_key=f"lmapps-{plugin.name}", secret="lmapps")

    talk = Conversation(application, saw)
    state = [status, send, stop, retry]
    outputs = [chatbot, message, *state, *saw.outputs]
    rest = [chatbot, *inputs, *controls]
    quiet: dict[str, Any] = {"show_progress": "hidden", **PRIVATE}
    events: Any = [
        send.click(talk.on_send, [message, *rest], outputs, **quiet),
        message.submit(talk.on_send, [message, *rest], outputs, **quiet),
        retry.click(talk.on_retry, rest, outputs, **quiet),
    ]
    now: dict[str, Any] = {"cancels": events, "queue": False, **quiet}
    for event in [*events, stop.click(stopped, None, state, **now)]:
        event.then(flat, chatbot, kept, **quiet)
    clear.click(emptied, None, [chatbot, kept, *state], **now)
    page.load(restored, kept, [chatbot, retry], **quiet)


class Conversation:
    """What the buttons of a chat tab do."""

    def __init__(self, application: Application, saw: Saw) -> None:
        self.application, self.saw = application, saw
        self.plugin = application.plugin
        self.others = [field for field in self.plugin.fields if field.kind != "messages"]

    async def on_send(self, text: str, turns: Turns, *values: Any) -> AsyncGenerator[Update, None]:
        """Add what was written, and answer it."""
        if not text.strip():
            yield (
                turns,
                text,
                "Write a message first.",
                *buttons(True),
                *self.saw.update(None, None),
            )
            return
        asked = [*turns, {"role": "user", "content": text}]
        async with aclosing(self._answer(asked, values)) as updates:
            async for update in updates:
                yield update

    async def on_retry(self, turns: Turns, *values: Any) -> AsyncGenerator[Update, None]:
        """Answer the last message again."""
        asked = turns[:-1] if turns and turns[-1]["role"] == "assistant" else turns
        if not asked:
            unseen = self.saw.update(None, None)
            yield turns, "", "There is nothing to try again yet.", *buttons(True), *unseen
            return
        async with aclosing(self._answer(asked, values)) as updates:
            async for update in updates:
                yield update

    async def _answer(self, turns: Turns, values: tuple[Any, ...]) -> AsyncGenerator[Update, None]:
        count = len(self.others)
        fields, changed = values_of(self.others, values[:count]), values[count:]
        fields[self.plugin.messages_field or ""] = flat(turns)
        seen = views(self.application, fields, lambda: decoding_from(self.plugin.decoding, changed))
        before = None
        async with aclosing(seen) as shown:
            async for view in shown:
                reply = [{"role": "assistant", "content": view.text}] if view.text else []
                panel = self.saw.update(view.asked, before)
                before = view.asked
                yield [*turns, *reply], "", view.status, *buttons(view.done), *panel


def emptied() -> tuple[Any, ...]:
    """A new chat: the conversation, what the browser keeps of it, the status, the buttons."""
    return [], [], "", *buttons(True)


def restored(kept: Turns) -> tuple[Turns, Any]:
    """The conversation of last time."""
    return kept, gr.update(interactive=bool(kept))


def flat(turns: Turns | None) -> Messages:
    """Gradio's messages, whose content may be a list of parts, as role and text alone."""
    return [{"role": turn["role"], "content": _text(turn["content"])} for turn in turns or []]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part.get("type") == "text")
