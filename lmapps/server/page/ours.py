"""The tabs that belong to no plugin: Models and Training."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.context import LocalContext

from lmapps.discovery import Found
from lmapps.server.managing import may_manage
from lmapps.server.page.languages import word
from lmapps.server.page.models import ModelsTab
from lmapps.server.page.picker import Picker
from lmapps.server.page.switch import Switch
from lmapps.server.page.training import training_tab
from lmapps.server.page.widgets import PRIVATE
from lmapps.server.store.store import Store
from lmapps.training.runs import Runs


def our_tabs(page: gr.Blocks, picker: Picker, found: Found, store: Store, runs: Runs) -> None:
    """Build them inside the row of tabs that is open."""
    with gr.Tab(word("Models"), id="lmapps-models") as models:
        ModelsTab(picker, Switch(picker.models)).connect(models)
    with gr.Tab(word("Training"), id="lmapps-training") as training:
        training_tab(training, runs, found, store, picker)
    managed = [models, training]

    def shown() -> list[Any]:
        allowed = may_manage(LocalContext.request.get(None))
        return [gr.skip() if allowed else gr.Tab(visible="hidden")] * len(managed)

    page.load(shown, None, managed, show_progress="hidden", **PRIVATE)
