"""The models -> the box at the top of the page in which each open page chooses one."""

from __future__ import annotations

import html

import gradio as gr

from lmapps.engine.models import Models
from lmapps.server.page.live import warning
from lmapps.server.page.widgets import PRIVATE


class Picker:
    """`box` is an input of every event that asks a model: its value is the model's name."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.box = gr.Dropdown(
            models.names, value=models.default, show_label=False, container=False,
            label="Model", elem_id="model", interactive=True, min_width=160, scale=1,
        )  # fmt: skip
        self.about = gr.Markdown(self.line(models.default), elem_id="about-model")

    def connect(self) -> None:
        """Load the model that is chosen, and say what it is; new ones are offered when the box is
        opened."""
        self.box.focus(
            lambda: gr.update(choices=self.models.names), None, self.box,
            show_progress="hidden", **PRIVATE,
        )  # fmt: skip
        self.box.input(self._chosen, self.box, self.about, show_progress="hidden", **PRIVATE)

    async def _chosen(self, name: str) -> str:
        try:
            async with self.models.use(name):
                return self.line(name)
        except Exception as error:  # the request boundary: the box goes on
            return warning(error)

    def line(self, name: str) -> str:
        """What a model is, as Markdown."""
        about = next((one.about for one in self.models.describe() if one.name == name), "")
        return html.escape(about, quote=False)
