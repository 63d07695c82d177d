"""What a step asked the model -> the prompt with its markers, its ids and the decoding."""

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
    """Components, inside the panel that is being built; `update` gives what they show."""

    def __init__(self) -> None:
        gr.Markdown(word("What the model saw"))
        self._about = gr.Markdown()
        self._prompt = gr.HighlightedText(
            color_map=COLOURS, combine_adjacent=True, show_inline_category=False,
            show_legend=True, show_label=False, show_whitespaces=True,
        )  # fmt: skip
        self._ids = gr.Textbox(
            label=word("Ids"), interactive=False, lines=2, max_lines=6, buttons=["copy"]
        )
        self.outputs = [self._about, self._prompt, self._ids]

    def update(self, asked: Asked | None) -> list[Any]:
        """The values of `outputs`."""
        if asked is None:
            return ["", [], ""]
        try:
            seen = asked.explained()
        except InputError as error:  # another server's model: what it is given is not known here
            said = [(f"{one['content']}\n", one["role"]) for one in asked.messages]
            return [warning(error), said, ""]
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
        return [" ".join(filter(None, about)), prompt, " ".join(str(t.id) for t in seen.tokens)]
