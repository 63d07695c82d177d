"""A page -> the page as the browser gets it: theme, style sheet, and what its head says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gradio as gr
from fastapi import FastAPI

from lmapps.plugin import Plugin
from lmapps.server.page.languages import languages, script

CSS = """
.gradio-container { max-width: 1100px !important; width: 100%; margin: 0 auto !important; }
.status { min-height: 1.5em; opacity: 0.8; }
.drop .wrap { padding-top: 0; min-height: 0; font-size: 0.85rem; line-height: 1.2; }
.drop .icon-wrap { display: none; }
.title-row { align-items: center; }
#theme { max-width: 8rem; min-width: 6rem !important; margin-left: auto; }
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
FONTS = ["system-ui", "sans-serif"]


def theme() -> Any:
    """Colours and fonts, all of them bundled."""
    return gr.themes.Soft(
        primary_hue="indigo", font=FONTS, font_mono=["ui-monospace", "monospace"]
    )  # fmt: skip


def mount(app: FastAPI, page: gr.Blocks, plugins: Iterable[Plugin]) -> FastAPI:
    """Put the page at the root of the web application, behind the addresses it has already."""
    return gr.mount_gradio_app(
        app, page, "/", theme=theme(), css=CSS, head=script(), show_error=True,
        footer_links=["settings"], run_history=False, enable_monitoring=False,
        max_file_size="10mb", ssr_mode=False, i18n=languages(plugins),
    )  # fmt: skip
