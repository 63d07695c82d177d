"""Plugins and an engine -> the page: one tab a plugin, and a tab that lists them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable

import gradio as gr

from lmapps.discovery import Found
from lmapps.engine.application import Application
from lmapps.engine.engine import Engine
from lmapps.failures import Failure, remember
from lmapps.plugin import Plugin
from lmapps.server.page.chat import QUIET, chat_tab
from lmapps.server.page.forms import form_tab
from lmapps.server.page.languages import known, word
from lmapps.server.page.look import ICON
from lmapps.server.page.places import Places, plugin_tabs
from lmapps.server.page.plugins import cell, plugins_page
from lmapps.server.page.widgets import PRIVATE
from lmapps.server.store.store import Store

LOG = logging.getLogger("lmapps.server")
DELETE_CACHE = 3600, 86400
"""How often Gradio looks for the files of exports and uploads, and how old they may become, in
seconds."""
SELECT = """<select id="language" aria-label="{label}" onchange="lmapps.choose(this.value)">
{options}
</select>"""


def build_page(found: Found, engine: Engine, store: Store) -> gr.Blocks:
    """The whole page. Chats come first, the list of plugins last."""
    places = Places(found)
    with gr.Blocks(title="lmapps", analytics_enabled=False, delete_cache=DELETE_CACHE) as page:
        _head(page, engine)

        def draw(plugin: Plugin) -> None:
            def build() -> None:
                application = Application(plugin, engine)
                if plugin.messages_field:
                    chat_tab(application, page, store)
                else:
                    form_tab(application)

            build_tab(plugin, build)

        trained = engine.checkpoint.folder
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
    gr.Markdown(f"⚠ {cell(failure.told[:1].upper() + failure.told[1:])}. {cell(failure.fix)}")


def _head(page: gr.Blocks, engine: Engine) -> None:
    """Whose page it is, which model answers, and how the page is shown."""
    options = {"en": "English"} | {code: language.name for code, language in known().items()}
    chosen = "\n".join(f'<option value="{code}">{name}</option>' for code, name in options.items())
    with gr.Row(elem_id="head"):
        gr.HTML(f"<h1>{ICON.read_text('utf-8')} lmapps</h1>", elem_id="name")
        about = gr.Markdown(elem_id="about")
        gr.HTML(SELECT.format(label=word("Language"), options=chosen), elem_id="languages")
        scheme = gr.Button(word("Light / dark"), elem_id="scheme")
    scheme.click(None, js="() => lmapps.switchScheme()", **PRIVATE)
    page.load(lambda: _about(engine), None, about, js="() => lmapps.arrive()", **QUIET)


def _about(engine: Engine) -> str:
    config = engine.checkpoint.config
    return word(
        "{name}: a {body} of {millions} million parameters, {context} tokens of context",
        name=cell(engine.name), body=config.body, millions=f"{config.parameters / 1e6:.1f}",
        context=config.context,
    )  # fmt: skip
