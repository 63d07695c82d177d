"""The conversations of a chat tab: the list, and what can be done with one."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lmapps.server.page.chat.seen import Seen
from lmapps.server.page.languages import later, word
from lmapps.server.page.widgets import QUIET
from lmapps.server.store.conversation import Conversation
from lmapps.server.store.exported import Exports

NONE = later("What you talk about is kept in this list.")
NOT_FOUND = later("No conversation has these words.")
UNFOLD = """() => {
    const shelf = [...document.querySelectorAll(".chat-list")].find(one => one.offsetParent);
    shelf.classList.toggle("unfolded");
}"""
"""On a phone the list is folded away above the chat; `page.js` folds it when one is chosen."""


class Shelf:
    """The components, in the column that is being built."""

    def __init__(self) -> None:
        with gr.Row(elem_classes="shelf-head"):
            self.unfold = gr.Button(word("Conversations"), size="sm", elem_id="unfold")
            self.new = gr.Button(word("New chat"), size="sm", elem_id="new-chat")
        self.search = gr.Textbox(
            label=word("Search conversations"), placeholder=word("Search"), elem_id="search",
            show_label=False, container=False,
        )  # fmt: skip
        self.empty = gr.Markdown(word(NONE), elem_classes="hint")
        self.listed = gr.Radio(
            [], label=word("Conversations"), visible=False, elem_id="conversations"
        )
        self.longer = gr.Button(word("Show more"), size="sm", visible=False)
        self.undelete = gr.Button(word("Undo delete"), size="sm", visible=False)
        with gr.Accordion(word("This conversation"), open=False):
            self.title = gr.Textbox(label=word("Title"), max_lines=1, elem_id="title")
            self.rename = gr.Button(word("Rename"), size="sm")
            self.export = gr.Button(word("Export"), size="sm")
            self.files = gr.Files(visible=False, show_label=False, elem_id="exported")
            self.delete = gr.Button(word("Delete"), size="sm", variant="stop")
        self.upload = gr.UploadButton(word("Import"), file_types=[".json"], size="sm")
        self.deleted = gr.Textbox(visible="hidden")
        """The conversation that was deleted last."""
        self.outputs = [
            self.empty, self.listed, self.longer, self.title, self.undelete, self.deleted,
        ]  # fmt: skip
        self._exports = Exports()
        self.unfold.click(None, js=UNFOLD, **QUIET)

    def update(self, seen: Seen) -> dict[Any, Any]:
        """Components and what they show after an action."""
        update, chosen = dict[Any, Any](), seen.place.conversation
        if seen.listed is not None:
            shown = seen.listed[: seen.place.listed]
            choices = [(item.title or word("Untitled"), item.id) for item in shown]
            update[self.listed] = gr.update(choices=choices, visible=bool(choices))
            if seen.busy is not None:
                update[self.listed]["value"] = chosen
            update[self.longer] = gr.update(visible=len(seen.listed) > len(shown))
            hint = word(NOT_FOUND if seen.place.search.strip() else NONE)
            update[self.empty] = gr.update(value=hint, visible=not choices)
        elif seen.title is not None:
            update[self.listed] = gr.update(value=chosen)
        if seen.title is not None:
            update |= {self.title: seen.title, self.undelete: gr.update(visible=False)}
        return update

    def gone(self, conversation: str) -> dict[Any, Any]:
        """After one was deleted: that can be taken back."""
        return {self.deleted: conversation, self.undelete: gr.update(visible=True)}

    def exported(self, whole: Conversation) -> dict[Any, Any]:
        """Two files to download: as Markdown, and as JSON with every branch."""
        return {self.files: gr.update(value=self._exports.write(whole), visible=True)}
