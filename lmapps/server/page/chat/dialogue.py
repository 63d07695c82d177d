"""The turns of a conversation: the component that shows them, more of them, and other versions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr

from lmapps.plugin import Plugin
from lmapps.server.page.chat.seen import Seen
from lmapps.server.page.languages import plugin_word, word
from lmapps.server.page.widgets import QUIET
from lmapps.server.store.conversation import Turn

EMPTIED = "(asked, text) => JSON.parse(asked)[1] === text ? '' : text"


class Dialogue:
    """The components, in the column that is being built."""

    def __init__(self, plugin: Plugin) -> None:
        shown = partial(plugin_word, plugin)
        self.earlier = gr.Button(word("Show earlier messages"), size="sm", visible=False)
        self.chatbot = gr.Chatbot(
            label=shown(plugin.title), buttons=["copy"], height="55vh", allow_tags=False,
            elem_id=f"chat-{plugin.name}", placeholder=shown(plugin.help), editable="all",
            feedback_options=("Like", "Dislike"), autoscroll=False,  # page.js does, if one looks on
        )  # fmt: skip
        with gr.Row(visible=False, elem_classes="versions") as self.versions:
            self.before = gr.Button("‹", size="sm", elem_id="version-before")
            self.version = gr.Markdown(elem_id="version")
            self.after = gr.Button("›", size="sm", elem_id="version-after")
        self.asked = gr.Textbox(visible="hidden")
        """The message that is being answered: its turn and its text, as JSON."""
        self.outputs = [self.earlier, self.chatbot, self.versions, self.version, self.asked]

    def empties(self, box: gr.Textbox) -> None:
        """A message leaves its box once it is in the conversation, unless somebody has written on
        meanwhile."""
        self.asked.change(None, [self.asked, box], box, js=EMPTIED, **QUIET)

    def update(self, seen: Seen) -> dict[Any, Any]:
        """Components and what they show after an action."""
        if seen.turns is None:
            return {}
        number, count = seen.version or (1, 1)
        said = [{"role": turn.role, "content": _as_it_is(turn.content)} for turn in seen.turns]
        # What was thought of the others stays as it was while a reply is written.
        rated = gr.update(value=said, feedback_value=_ratings(seen.turns))
        update: dict[Any, Any] = {
            self.chatbot: said if seen.busy else rated,
            self.earlier: gr.update(visible=seen.earlier > 0),
            self.versions: gr.update(visible=count > 1),
            self.version: word("Version {number} of {count}", number=number, count=count),
        }
        if seen.busy and seen.turns and (asked := seen.turns[-1]).role == "user":
            update[self.asked] = json.dumps([asked.id, asked.content])
        return update


def _as_it_is(text: str) -> list[dict[str, str]]:
    """A text of which Gradio does not take the indentation off, as it does of a bare one: that of a
    program, and of a list within a list, says something."""
    return [{"type": "text", "text": text}]


def _ratings(turns: Sequence[Turn]) -> list[str | None]:
    """What was thought of each reply, in the words of the chat component."""
    words = {1: "Like", -1: "Dislike"}
    return [words.get(turn.rating or 0) for turn in turns if turn.role == "assistant"]
