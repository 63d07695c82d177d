"""The last runs of a form -> a list that brings one back, and can be cleared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from lmapps.server.page.languages import word
from lmapps.server.store.runs import Run

LONGEST = 60
"""Characters of what was filled in, and of the reply, in a line of the list."""


class History:
    """The components: `runs` lists, `clear` and `undo` are buttons."""

    def __init__(self, plugin: str) -> None:
        self.cleared = gr.State(None)
        with gr.Accordion(word("Last runs"), open=False) as self.panel:
            self.empty = gr.Markdown(word("What you write here is kept in this list."))
            self.runs = gr.Radio(
                [], show_label=False, container=False, elem_id=f"runs-{plugin}",
                elem_classes="run-list",
            )  # fmt: skip
            with gr.Row():
                self.clear = gr.Button(word("Clear the list"), size="sm", visible=False)
                self.undo = gr.Button(word("Undo clear"), size="sm", visible=False)
        self.outputs = [self.empty, self.runs, self.clear, self.undo, self.cleared]

    def update(
        self, runs: Sequence[Run], chosen: str | None = None, cleared: float | None = None
    ) -> dict[Any, Any]:
        """Components and what they show: the list, and what can be done about it."""
        choices = [(line_of(run), run.id) for run in runs]
        chosen = chosen if any(run.id == chosen for run in runs) else None
        told = [
            gr.update(visible=not runs),
            gr.update(choices=choices, value=chosen),
            gr.update(visible=bool(runs)),
            gr.update(visible=cleared is not None),
            cleared,
        ]
        return dict(zip(self.outputs, told, strict=True))


def line_of(run: Run) -> str:
    """What was filled in and the beginning of the reply."""
    filled = [str(value) for value in run.fields.values() if isinstance(value, str) and value]
    return f"{_cut(' · '.join(filled))} → {_cut(run.reply)}"


def _cut(text: str) -> str:
    words = " ".join(text[: 10 * LONGEST].split())
    return words if len(words) <= LONGEST else words[:LONGEST].rsplit(" ", 1)[0] + " ..."
