"""Plugins and models -> the page: one tab a plugin, and a tab that lists them."""

from __future__ import annotations

import html
import inspect
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from lmapps.discovery import Found
from lmapps.engine.models import Models
from lmapps.failures import Failure, remember, remembered
from lmapps.plugin import Plugin
from lmapps.prompts import changed_prompts
from lmapps.server.page.chat import chat_tab
from lmapps.server.page.forms import form_tab
from lmapps.server.page.picker import Picker
from lmapps.server.page.places import Places, plugin_tabs
from lmapps.server.page.widgets import PRIVATE
from lmapps.server.store.store import Store

CSS = """
.gradio-container { max-width: 1100px !important; width: 100%; margin: 0 auto !important; }
.status { min-height: 1.5em; opacity: 0.8; }
.drop .wrap { padding-top: 0; min-height: 0; font-size: 0.85rem; line-height: 1.2; }
.drop .icon-wrap { display: none; }
.title-row { align-items: center; }
.title-row > * { flex: none !important; width: auto !important; min-width: 0 !important; }
#model { flex: 0 1 14rem !important; }
#about-model { flex: 1 1 0 !important; font-size: 0.85rem; opacity: 0.8; }
@media (max-width: 720px) { #about-model { order: 1; flex-basis: 100% !important; } }
.saw .textfield span { word-break: normal; overflow-wrap: anywhere; }
.dark .saw .textfield span, .dark .saw [class*="category"] { color: white !important; }
#plugins-page { overflow-x: auto; }
#plugins-page td, #plugins-page th { word-break: normal; overflow-wrap: normal; }
#plugins-page li { overflow-wrap: anywhere; }
.chat-list .wrap { flex-direction: column; flex-wrap: nowrap; max-height: 40vh; overflow-y: auto;
  gap: 2px; }
.chat-list label { width: 100%; }
.chat-list label input[type=radio] { display: none; }
.chat-list label span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.versions { flex-wrap: nowrap; align-items: center; justify-content: center; }
.versions > * { flex: none !important; width: auto; min-width: 0 !important; }
@media (min-width: 721px) { .chat-list { max-width: 240px; } }
@media (max-width: 720px) { .chat-list { order: 2; } }
"""
LOG = logging.getLogger("lmapps.server")
FENCE = "`" * 8
DELETE_CACHE = 3600, 86400
"""How often Gradio looks for the files of exports and uploads, and how old they may become, in
seconds."""
SWITCH_THEME = "() => { document.body.classList.toggle('dark'); }"
FONTS = ["system-ui", "sans-serif"]


def theme() -> Any:
    """Colours and fonts, all of them bundled."""
    return gr.themes.Soft(
        primary_hue="indigo", font=FONTS, font_mono=["ui-monospace", "monospace"]
    )  # fmt: skip


def build_page(found: Found, models: Models, store: Store) -> gr.Blocks:
    """The whole page. Chats come first, the list of plugins last."""
    places = Places(found)
    with gr.Blocks(title="lmapps", analytics_enabled=False, delete_cache=DELETE_CACHE) as page:
        with gr.Row(elem_classes="title-row"):
            gr.Markdown("## lmapps")
            picker = Picker(models)
            switch = gr.Button("Light / dark", size="sm", elem_id="theme")
            switch.click(None, js=SWITCH_THEME, **PRIVATE)
        picker.connect()

        def draw(plugin: Plugin) -> None:
            def build() -> None:
                if plugin.messages_field:
                    chat_tab(plugin, picker, page, store)
                else:
                    form_tab(plugin, picker)

            build_tab(plugin, build)

        trained = models.folder(models.default)
        plugin_tabs(places, draw, lambda left_over: plugins_page(found, left_over, trained))
    page.max_threads = 200
    page.queue(default_concurrency_limit=None)
    return page


def build_tab(plugin: Plugin, build: Callable[[], None]) -> None:
    """Build the inside of a plugin's tab, or say there why that is not possible."""
    with gr.Column() as inside:
        try:
            build()
            return
        except Exception as error:  # the plugin boundary: the other tabs are built
            code = inspect.unwrap(plugin.function).__code__
            kind = type(error).__name__
            reason = f"the tab of plugin {plugin.name!r} cannot be built: {kind}"
            failure = Failure(
                code.co_filename, code.co_firstlineno, reason, "Correct the plugin.", str(error)
            )
            LOG.exception("%s", failure)
            remember(failure)
    inside.visible = False  # what was built of it so far
    gr.Markdown(f"⚠ {_cell(failure.told[:1].upper() + failure.told[1:])}. {_cell(failure.fix)}")


def plugins_page(
    found: Found, left_over: Sequence[str] = (), checkpoint: Path | None = None
) -> str:
    """What was found, what is worded otherwise than in the checkpoint's training, and what failed
    and why, as Markdown."""
    lines = ["A plugin is code that runs in this server: add only what you trust.", ""]
    lines += ["| Name | What it does | File |", "|---|---|---|"]
    for name, plugin in found.plugins.items():
        lines.append(
            f"| {_cell(name)} | {_cell(plugin.help)} | {_cell(found.sources.get(name, ''))} |"
        )
    for name, source in found.off.items():
        lines.append(f"| {_cell(name)} | (switched off) | {_cell(source)} |")
    if left_over:
        names = ", ".join(map(_cell, left_over))
        lines += ["", f"So many came that the page has no tab for {names}: start the server again."]
    for name, change in changed_prompts(found.plugins.values(), checkpoint).items():
        title = f"### {_cell(name)}: its prompt has changed since the model was trained"
        lines += ["", title, "", FENCE + "diff", change.replace(FENCE, "```"), FENCE]
    for title, failures in (("Not loaded", found.failures), ("Failed in use", remembered())):
        lines += ["", f"### {title}", ""] if failures else []
        for failure in failures:
            name = Path(failure.file).name + (f", line {failure.line}" if failure.line else "")
            told = f"{failure.reason}. {failure.fix} ({failure.file})"
            lines.append(f"- **{_cell(name)}**: {_cell(told)}")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text inside a Markdown table, with nothing that would be markup."""
    plain = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#<>!" else letter for letter in plain)
