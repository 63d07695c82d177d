"""What a person brings and chooses -> a training run: the form of the Training tab."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from lmapps.discovery import Found
from lmapps.errors import DataError
from lmapps.server.managing import check_page, managed
from lmapps.server.page.languages import later, word
from lmapps.server.page.live import Update, warning
from lmapps.server.page.widgets import CHOICE, PRIVATE, QUIET
from lmapps.server.page.workshop.runview import forecast_text
from lmapps.server.store.feedback import TRAIN_FILE, feedback
from lmapps.server.store.store import Store
from lmapps.text.sources import COMPRESSED_SUFFIXES, RECORD_SUFFIXES, TEXT_SUFFIXES
from lmapps.training.draft import Draft, check_memory, checkpoints, settings_of
from lmapps.training.foresee import ask
from lmapps.training.runs import Runs
from lmapps.training.texts import check_enough, data_folder, free, keep, kept, recipes

TEXT, APPS, FEEDBACK = "text", "apps", "feedback"
BODIES = {
    "transformer": later("Transformer"),
    "rnn": later("RNN"),
    "gru": later("GRU"),
    "lstm": later("LSTM"),
}
SIZES = {
    "tiny": later("Tiny (1 M)"),
    "small": later("Small (10 M)"),
    "base": later("Base (40 M)"),
    "large": later("Large (125 M)"),
}

SHOW_RUN = """() => {
    const told = document.querySelector("#new-run-status");
    if (!told?.innerText.includes("⚠")) lmapps.reveal("#run-view");
}"""
"""Where a run has begun, what there is to see of it."""
Watch = Callable[[str], Update]
"""A run's name -> what the rest of the tab shows of it."""


class NewRun:
    """The components, and what happens when they are pressed."""

    def __init__(self, runs: Runs, found: Found, store: Store) -> None:
        self.runs, self.found, self.store = runs, found, store
        self.what = gr.Radio(
            [(word("Text"), TEXT), (word("Plugins' examples"), APPS),
             (word("Corrected and liked replies"), FEEDBACK)],
            value=TEXT, label=word("Train on"), elem_id="train-on",
        )  # fmt: skip
        self._build_data()
        self.start_from = gr.Dropdown(
            [(word("Nothing: a new model"), "")], value="", label=word("Start from"),
            elem_id="start-from",
        )  # fmt: skip
        with gr.Row() as self.shape:
            self.body = gr.Dropdown(
                [(word(text), body) for body, text in BODIES.items()], value="transformer",
                label=word("Body"), elem_id="body",
            )  # fmt: skip
            self.size = gr.Dropdown(
                [(word(text), size) for size, text in SIZES.items()], value="tiny",
                label=word("Size"), elem_id="size",
            )  # fmt: skip
        with gr.Row():
            self.minutes = gr.Number(10, minimum=0.1, label=word("Minutes"), elem_id="minutes")
            self.name = gr.Textbox(label=word("Name"), max_lines=1, elem_id="run-name")
        with gr.Accordion(word("More settings"), open=False):
            self.recipe = gr.Dropdown(
                [], label=word("Recipe in the data folder"), visible=False, elem_id="recipe"
            )
            self.more = gr.Textbox(
                label=word("As in a recipe, a line each"), lines=3, max_lines=12, elem_id="more",
                placeholder=word("dropout = 0.1"),
                info=word("All that `lmapps train --help` lists; these win over the form."),
            )  # fmt: skip
        with gr.Row():
            self.forecast = gr.Button(word("Forecast"), min_width=90)
            self.start = gr.Button(word("Start"), variant="primary", min_width=90)
        self.status = gr.Markdown(elem_classes="status", elem_id="new-run-status")
        self.fields = [
            self.what, self.files, self.pasted, self.places, self.apps, self.records, self.plugin,
            self.start_from, self.body, self.size, self.minutes, self.name, self.more,
        ]  # fmt: skip

    def _build_data(self) -> None:
        """What is trained on, one of three ways."""
        with gr.Column(visible=True) as self.text_box:
            self.pasted = gr.Textbox(
                label=word("Text"), lines=4, max_lines=8, elem_id="pasted",
                placeholder=word("Paste some text, the more the better"),
            )  # fmt: skip
        with gr.Column(visible=False) as self.apps_box:
            self.apps = gr.CheckboxGroup([], label=word("Plugins"), elem_id="train-apps")
            self.records = gr.Dropdown(
                [], multiselect=True, label=word("Records in the data folder"), visible=False
            )
        with gr.Column(visible=False) as self.feedback_box:
            self.plugin = gr.Dropdown([], label=word("Of the chat"), elem_id="feedback-of")
            self.told = gr.Markdown(elem_id="feedback-told")
        self.files = gr.File(
            label=word("Files"), file_count="multiple", elem_id="train-files",
            elem_classes="drop", height=96,
            file_types=[*TEXT_SUFFIXES, *RECORD_SUFFIXES, *COMPRESSED_SUFFIXES],
        )  # fmt: skip
        self.places = gr.Dropdown(
            [], multiselect=True, label=word("What is in the data folder"), visible=False,
            elem_id="places",
        )  # fmt: skip

    def connect(self, tab: gr.Tab, watched: Sequence[Any], watch: Watch) -> None:
        """Every event; `watch` gives values of the components `watched`."""
        refreshed = [self.places, self.apps, self.plugin, self.told, self.start_from, self.recipe]
        tab.select(self._on_arrive, self.plugin, refreshed, **QUIET)
        boxes = [self.text_box, self.apps_box, self.feedback_box, self.files, self.places]
        self.what.change(
            managed(self._on_what), self.what, [*boxes, self.start_from, self.minutes], **QUIET
        )
        self.start_from.change(self._on_from, self.start_from, self.shape, **QUIET)
        self.apps.change(managed(self._on_apps), self.apps, self.records, **QUIET)
        self.plugin.input(managed(self._on_plugin), self.plugin, self.told, **CHOICE)
        self.recipe.input(managed(self._on_recipe), self.recipe, self.more, **CHOICE)
        self.forecast.click(
            self._on_forecast, self.fields, self.status, show_progress="minimal", **PRIVATE
        )

        kept = [self.files, self.pasted, self.places]
        self.start.click(
            lambda *values: self._on_start(watch, *values), self.fields,
            [self.status, *kept, *watched], **QUIET,
        ).then(None, js=SHOW_RUN, **QUIET)  # fmt: skip

    def _on_arrive(self, plugin: str | None) -> Update:
        """What there is to choose now."""
        check_page()
        found = self.found.plugins.values()
        chats = [p.name for p in found if p.has_dataset and p.messages_field]
        plugin = plugin if plugin in chats else next(iter(chats), None)
        places, tomls = kept(), recipes()
        return {
            self.places: gr.update(choices=places, visible=bool(places)),
            self.apps: gr.update(choices=[(p.title, p.name) for p in found if p.has_dataset]),
            self.plugin: gr.update(choices=chats, value=plugin, visible=len(chats) > 1),
            self.told: self._on_plugin(plugin),
            self.start_from: gr.update(choices=_starts()),
            self.recipe: gr.update(choices=tomls, visible=bool(tomls)),
        }

    def _on_what(self, what: str) -> Update:
        """What the choice needs to be told. Plugins and corrections change a model that is there,
        and of few corrections a few minutes learn all there is."""
        start = "" if what == TEXT else next(iter(checkpoints()), "")
        return {
            self.text_box: gr.update(visible=what == TEXT),
            self.apps_box: gr.update(visible=what == APPS),
            self.feedback_box: gr.update(visible=what == FEEDBACK),
            self.files: gr.update(visible=what != FEEDBACK),
            self.places: gr.update(visible=what == TEXT and bool(kept())),
            self.start_from: gr.update(choices=_starts(), value=start),  # it may come first
            self.minutes: 2 if what == FEEDBACK else 10,
        }

    def _on_from(self, start_from: str) -> Update:
        return {self.shape: gr.update(visible=not start_from)}

    def _on_apps(self, apps: Sequence[str]) -> Update:
        choices = [f"{app}={place}" for app in apps for place in kept()]
        return {self.records: gr.update(choices=choices, value=[], visible=bool(choices))}

    def _on_plugin(self, plugin: str | None) -> str:
        if plugin is None:
            return str(word("There is no chat that can be trained."))
        found = feedback(self.store, plugin)
        if not found.train:
            return str(
                word("Nothing to learn from yet: correct or like replies in two chats at least.")
            )
        return str(
            word("{train} replies to train on, {held_out} kept apart to compare on.",
                 train=len(found.train), held_out=len(found.held_out))
        )  # fmt: skip

    def _on_recipe(self, name: str) -> str:
        return (data_folder() / name).read_text(encoding="utf-8") if name in recipes() else ""

    def _on_forecast(self, *values: Any) -> str:
        try:
            check_page()
            chosen = Chosen(*values)
            draft = chosen.draft()
            settings = settings_of(replace(draft, name=draft.name or "forecast"), Path("."))
            size = len(chosen.pasted or "") + sum(file.stat().st_size for file in chosen.uploaded)
            size += check_enough([Path(place) for place in settings.data]) if settings.data else 0
            return forecast_text(ask(settings, 0 if settings.apps else size))
        except Exception as error:  # else the tab shows nothing at all
            return warning(error)

    def _on_start(self, watch: Watch, *values: Any) -> Update:
        """Keep what was brought, check all of it, and start; what was kept stays kept."""
        update: Update = {}
        try:
            check_page()
            chosen = Chosen(*values)
            draft = chosen.draft()
            self.runs.check_new(draft.name)
            draft = self._kept(chosen, draft)
            if chosen.what == TEXT and draft.places != chosen.places:
                places = gr.update(choices=kept(), value=list(draft.places), visible=True)
                update |= {self.places: places, self.files: None, self.pasted: ""}
            settings = settings_of(draft, self.runs.folders[0])
            if not settings.apps:
                check_enough([Path(place) for place in settings.data])
            check_memory(settings)
            name = self.runs.start(settings)
        except Exception as error:  # else the tab shows nothing at all
            return update | {self.status: warning(error)}
        said = word("{name} trains now, with a low priority: the server's replies come first.",
                    name=name)  # fmt: skip
        return update | watch(name) | {self.status: said}

    def _kept(self, chosen: Chosen, draft: Draft) -> Draft:
        """The draft with what was brought, which lies in the data folder from here on."""
        if chosen.what == FEEDBACK:
            found = feedback(self.store, chosen.plugin or "")
            if not found.train:
                raise DataError(self._on_plugin(chosen.plugin))
            folder = free(data_folder() / draft.name)
            found.write(folder)
            return replace(draft, places=[f"{chosen.plugin}={folder.name}/{TRAIN_FILE}"])
        if chosen.what == APPS and chosen.uploaded and len(draft.apps) != 1:
            raise DataError(
                "files with records go to one plugin: choose one plugin at a time, or put them "
                "into the data folder {folder}",
                folder=data_folder(),
            )
        place = keep(draft.name, (chosen.pasted or "") * (chosen.what == TEXT), chosen.uploaded)
        if place is None:
            return draft
        prefix = f"{draft.apps[0]}=" if chosen.what == APPS else ""
        return replace(draft, places=[*draft.places, prefix + place.name])


def _starts() -> list[tuple[Any, str]]:
    """What a run can start from."""
    return [(word("Nothing: a new model"), ""), *((name, name) for name in checkpoints())]


@dataclass(frozen=True)
class Chosen:
    """What the components of the form hold, in their order."""

    what: str
    files: Sequence[str] | None
    pasted: str | None
    places: Sequence[str]
    apps: Sequence[str]
    records: Sequence[str]
    plugin: str | None
    start_from: str | None
    body: str
    size: str
    minutes: float | None
    name: str | None
    more: str | None

    @property
    def uploaded(self) -> list[Path]:
        return [Path(file) for file in self.files or () if self.what != FEEDBACK]

    def draft(self) -> Draft:
        """Without what was brought."""
        by_what = {
            TEXT: (self.places, ()),
            APPS: (self.records, self.apps),
            FEEDBACK: ((), (self.plugin,)),
        }
        places, apps = by_what[self.what]
        if self.what == APPS and not apps:
            raise DataError(word("no plugin is chosen: choose one at least"))
        return Draft(
            (self.name or "").strip(), places or (), [app for app in apps if app],
            self.start_from or "", self.body, self.size, self.minutes or 0, self.more or "",
        )  # fmt: skip
