"""The conversations of a chat tab: the list, and what can be done with one."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lmapps.server.page.chat.talk import Seen
from lmapps.server.page.languages import word
from lmapps.server.store.conversation import Conversation
from lmapps.server.store.exported import Exports


class Shelf:
    """The components, in the column that is being built."""

    def __init__(self) -> None:
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
        self.deleted = gr.State(None)
        self.outputs = [self.listed, self.title, self.undelete, self.deleted]
        self._exports = Exports()

    def update(self, seen: Seen) -> dict[Any, Any]:
        """Components and what they show after an action."""
        update, chosen = dict[Any, Any](), seen.place.conversation
        if seen.listed is not None:
            choices = [(item.title or word("Untitled"), item.id) for item in seen.listed]
            update[self.listed] = gr.update(choices=choices, value=chosen)
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
