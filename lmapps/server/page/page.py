"""Plugins and models -> the page: one tab a plugin, and a tab that lists them."""

from __future__ import annotations

import html
import inspect
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import gradio as gr

from lmapps.discovery import Found
from lmapps.engine.models import Models
from lmapps.failures import Failure, remember
from lmapps.plugin import Plugin
from lmapps.server.managing import NotAllowed, check_page
from lmapps.server.page.chat.chat import chat_tab
from lmapps.server.page.forms.forms import form_tab
from lmapps.server.page.languages import known, word
from lmapps.server.page.live import warning
from lmapps.server.page.look import ICON
from lmapps.server.page.picker import Picker
from lmapps.server.page.places import Places, plugin_tabs
from lmapps.server.page.plugins import cell, plugins_page
from lmapps.server.page.sparing import Page
from lmapps.server.page.visitor import Visitor
from lmapps.server.page.widgets import PRIVATE, QUIET
from lmapps.server.page.workshop.ours import our_tabs
from lmapps.server.store.store import Store
from lmapps.server.who import who_on_page
from lmapps.training.runs import Runs

LOG = logging.getLogger("lmapps.server")
DELETE_CACHE = 3600, 86400
"""How often Gradio looks for the files of exports and uploads, and how old they may become, in
seconds."""
SELECT = """<select id="language" aria-label="{label}">
{options}
</select>"""


def build_page(
    found: Found,
    models: Models,
    store: Store,
    for_admins: bool = True,
    with_accounts: bool = False,
    runs: Runs | None = None,
) -> gr.Blocks:
    """The whole page. Chats come first, the list of plugins last.

    for_admins     with the tabs that are an admin's: on the page of the others they are not there
    with_accounts  say who is logged in
    runs           the training runs; None = those of the checkpoint folders
    """
    places, runs = Places(found), runs or Runs()
    with Page(title="lmapps", analytics_enabled=False, delete_cache=DELETE_CACHE) as page:
        visitor = Visitor(store)
        picker = _head(page, models, with_accounts)
        visitor.connect(page)

        def draw(plugin: Plugin, tab: gr.Tab | None) -> None:
            build = chat_tab if plugin.messages_field else form_tab
            build_tab(plugin, lambda: build(plugin, picker, visitor, page, tab))

        trained = models.folder(models.default)
        plugin_tabs(
            places, draw,
            (lambda left_over: listed(found, left_over, trained)) if for_admins else None,
            lambda: our_tabs(picker, found, visitor, runs, for_admins),
        )  # fmt: skip
    page.max_threads = 200
    page.queue(default_concurrency_limit=None, api_open=False)
    return page


def listed(found: Found, left_over: Sequence[str], trained: Path | None) -> str:
    """The list of plugins, which names files: for admins, whoever has the page."""
    try:
        check_page()
    except NotAllowed as error:
        return warning(error)
    return plugins_page(found, left_over, trained)


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


def _head(page: gr.Blocks, models: Models, with_accounts: bool) -> Picker:
    """Whose page it is, which model answers, and how the page is shown."""
    options = {"en": "English"} | {code: language.name for code, language in known().items()}
    chosen = "\n".join(f'<option value="{code}">{name}</option>' for code, name in options.items())
    with gr.Row(elem_id="head"):
        gr.HTML(f"<h1>{ICON.read_text('utf-8')} lmapps</h1>", elem_id="name")
        picker = Picker(models)
        gr.HTML(SELECT.format(label=word("Language"), options=chosen), elem_id="languages")
        scheme = gr.Button(word("Light / dark"), elem_id="scheme")
        if with_accounts:
            account = gr.HTML(elem_id="account")
            page.load(_account, None, account, **QUIET)
    scheme.click(None, js="() => lmapps.switchScheme()", **PRIVATE)
    picker.connect(page)
    return picker


def _account() -> str:
    """Who is logged in, as the way to their account."""
    account = who_on_page().account
    if account is None:
        return ""
    title, name = html.escape(word("Account")), html.escape(account.name)
    return f'<a href="account" title="{title}">{name}</a>'
