"""The models -> the box at the top of the page in which each open page chooses one."""

from __future__ import annotations

import gradio as gr

from lmapps.engine.models import Models
from lmapps.server.page.languages import translated, word
from lmapps.server.page.live import warning
from lmapps.server.page.plugins import cell
from lmapps.server.page.widgets import CHOICE, QUIET


class Picker:
    """`box` is an input of every event that asks a model: its value is the model's name."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.box = gr.Dropdown(
            models.names, value=models.default, label=word("Model"), show_label=False,
            container=False, elem_id="model", interactive=True,
        )  # fmt: skip
        self.about = gr.Markdown(elem_id="about")

    def connect(self, page: gr.Blocks) -> None:
        """Load the model that is chosen, and say what it is; new ones are offered when the box is
        opened."""
        self.box.focus(lambda: gr.update(choices=self.models.names), None, self.box, **QUIET)
        gr.on([page.load, self.box.input], self.chosen, self.box, self.about, **CHOICE)

    async def chosen(self, name: str) -> str:
        """What a model is, as Markdown, once it is there."""
        try:
            async with self.models.use(name) as backend:
                return cell(translated(backend.about))
        except Exception as error:  # the request boundary: the box goes on
            return warning(error)
