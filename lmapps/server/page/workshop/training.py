"""The Training tab: a run is started on one side and watched on the other."""

from __future__ import annotations

import gradio as gr

from lmapps.discovery import Found
from lmapps.server.page.languages import word
from lmapps.server.page.picker import Picker
from lmapps.server.page.workshop.newrun import NewRun
from lmapps.server.page.workshop.watching import Watching
from lmapps.server.store.store import Store
from lmapps.training.runs import Runs


def training_tab(tab: gr.Tab, runs: Runs, found: Found, store: Store, picker: Picker) -> None:
    """Build the inside of the tab that is open."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300), gr.Accordion(word("New run"), open=True):
            new = NewRun(runs, found, store)
        with gr.Column(scale=3, min_width=300, elem_classes="watching"):
            watching = Watching(runs, picker)
    watching.connect(tab)
    new.connect(tab, watching.outputs, watching.shown)
