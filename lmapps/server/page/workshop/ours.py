"""The tabs that belong to no plugin: Compare, Models, Training."""

from __future__ import annotations

import gradio as gr

from lmapps.discovery import Found
from lmapps.server.page.languages import word
from lmapps.server.page.picker import Picker
from lmapps.server.page.visitor import Visitor
from lmapps.server.page.workshop.compare import CompareTab
from lmapps.server.page.workshop.models import ModelsTab
from lmapps.server.page.workshop.switch import Switch
from lmapps.server.page.workshop.training import training_tab
from lmapps.training.runs import Runs


def our_tabs(picker: Picker, found: Found, visitor: Visitor, runs: Runs, for_admins: bool) -> None:
    """Build them inside the row of tabs that is open; `for_admins` those that manage what
    everybody shares."""
    with gr.Tab(word("Compare"), id="lmapps-compare") as comparing:
        CompareTab(picker, found, visitor).connect(comparing)
    if not for_admins:
        return
    with gr.Tab(word("Models"), id="lmapps-models") as models:
        ModelsTab(picker, Switch(picker.models), runs).connect(models)
    with gr.Tab(word("Training"), id="lmapps-training") as training:
        training_tab(training, runs, found, visitor.store, picker)
