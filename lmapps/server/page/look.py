"""A page -> the page as the browser gets it: theme, style sheet, and what its head says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from urllib.parse import quote

import gradio as gr
from fastapi import FastAPI
from jinja2 import ChoiceLoader, DictLoader

from lmapps.plugin import Plugin
from lmapps.server.page.document import Document
from lmapps.server.page.faults import attend
from lmapps.server.page.languages import languages, locales
from lmapps.server.page.news import tell
from lmapps.server.page.sparing import spare
from lmapps.server.page.theme import ACCENT, PAPER, theme
from lmapps.server.page.trouble import gone

HERE = Path(__file__).parent
ICON = HERE / "favicon.svg"
INDEX = "frontend/index.html"
"""Gradio's template of the document."""


def mount(app: FastAPI, page: gr.Blocks, plugins: Iterable[Plugin]) -> FastAPI:
    """Put the page at the root of the web application, behind the addresses it has already."""
    dress()
    tell(app, page)
    gr.mount_gradio_app(
        app, page, "/", theme=theme(), css_paths=[HERE / "page.css", HERE / "tabs.css"],
        favicon_path=str(ICON),
        i18n=languages(plugins), show_error=True, footer_links=[], run_history=False,
        enable_monitoring=False, max_file_size="10mb", ssr_mode=False, mcp_server=False,
    )  # fmt: skip
    attend(app)
    spare(app, page)
    app.add_middleware(Document)
    return app


@cache
def dress() -> None:
    """Put our head into Gradio's document, once for the process.

    What `mount_gradio_app` takes as `head` is added by Gradio's script after it has chosen language
    and scheme, so it comes too late for both.
    """
    from gradio.routes import templates

    theirs = templates.env.loader
    assert theirs is not None
    source, _, _ = theirs.get_source(templates.env, INDEX)
    assert "<head>" in source
    source = re.sub(r'<meta\s+(property="og:|name="twitter:)[^>]*>', "", source)
    ours = DictLoader({INDEX: source.replace("<head>", "<head>" + head(), 1)})
    templates.env.loader = ChoiceLoader([ours, theirs])


def head() -> str:
    """Icon, script, and the colours before the theme is there, as HTML in a Jinja template."""
    script = (HERE / "page.js").read_text("utf-8").replace("LANGUAGES", json.dumps(locales()), 1)
    script = script.replace("GONE", gone(), 1)
    icon = f"data:image/svg+xml,{quote(ICON.read_text())}"
    return f"""{{% raw %}}
<link rel="icon" type="image/svg+xml" href="{icon}">
<style>
  html[data-scheme] body {{ background: {PAPER.c50}; color: {PAPER.c900}; }}
  html[data-scheme="dark"] body {{ background: {PAPER.c950}; color: {PAPER.c100}; }}
  html {{ color-scheme: light; accent-color: {ACCENT.c500}; }}
  html[data-scheme="dark"] {{ color-scheme: dark; }}
</style>
<script>
{script}</script>
{{% endraw %}}"""
