"""What a step asked the model -> a folded panel: the prompt with its markers, ids and decoding."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lmapps.engine.application import Asked
from lmapps.errors import InputError
from lmapps.server.page.languages import later, word
from lmapps.server.page.live import warning

MARKER, EARLIER = later("marker"), later("earlier reply")
COLOURS = {MARKER: "#6366f1", EARLIER: "#059669"}


class Saw:
    """The panel of one tab; `update` gives the values of its `outputs`."""

    def __init__(self) -> None:
        with gr.Accordion(word("What the model saw"), open=False, elem_classes="saw"):
            self._about = gr.Markdown(
                word("Nothing yet: what the model is given appears here with the reply.")
            )
            self._prompt = gr.HighlightedText(
                color_map=COLOURS, combine_adjacent=True, show_inline_category=False,
                show_legend=True, show_label=False, show_whitespaces=True,
            )  # fmt: skip
            self._ids = gr.Textbox(
                label=word("Ids"), interactive=False, lines=2, max_lines=6, buttons=["copy"]
            )
        self.outputs = [self._about, self._prompt, self._ids]

    def update(self, asked: Asked | None, before: Asked | None) -> tuple[Any, ...]:
        """The panel's new values; nothing is sent while the same prompt is answered."""
        if asked is None or asked is before:
            return gr.skip(), gr.skip(), gr.skip()
        try:
            seen = asked.explained()
        except InputError as error:  # another server's model: what it is given is not known here
            said = [(f"{one['content']}\n", one["role"]) for one in asked.messages]
            return warning(error), said, ""
        about = [
            word("{count} tokens.", count=len(seen.tokens)),
            word("The first of {count} prompts side by side.", count=seen.prompts)
            if seen.prompts > 1 else "",
            word("Decoding: `{settings}`", settings=seen.settings),
        ]  # fmt: skip
        marker, earlier = word(MARKER), word(EARLIER)
        pieces = [
            (token.text, marker if token.control else earlier if token.counted else None)
            for token in seen.tokens
        ]
        prompt = gr.update(value=pieces, color_map={word(name): COLOURS[name] for name in COLOURS})
        return " ".join(filter(None, about)), prompt, " ".join(str(t.id) for t in seen.tokens)
