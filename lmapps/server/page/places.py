"""Plugins -> places in the row of tabs, which follow the plugin folders while the page is open.

A tab cannot be added to a page that a browser has open, so a few places are there unseen. Only the
place whose plugin has changed is drawn again: what was typed or is being written in the others is
not touched. What a plugin looked like when the server started is part of the page itself, so a
page without changes costs nothing more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from lmapps.discovery import Found
from lmapps.plugin import Plugin
from lmapps.server.page.languages import plugin_word, word
from lmapps.server.page.trouble import FOR_ADMINS
from lmapps.server.page.widgets import QUIET

SPARE = 16
"""How many plugins may come while the server runs."""
AT_ONCE = 12
"""How many tabs are part of the page; the rest are drawn when they are opened, so that hundreds of
plugins neither slow the start down nor the page."""
LIST = "lmapps-plugins"
"""The tab that lists the plugins, the last one."""
LOOK_SECONDS = 1.0
"""How often an open page asks whether something has changed."""
VERSION = "plugins/version"
"""The address, beside the page, of the version that is found now."""
PROCESS = "x-lmapps-process"
"""The header of that answer by which a page learns that another process answers it: `page.js`."""

CHOSEN = """(seen, drawn, _) => [
    seen, drawn, document.querySelector('[role="tab"][aria-selected="true"]')?.dataset.tabId ?? ""
]"""

Draw = Callable[[Plugin, gr.Tab | None], None]
"""Builds the inside of a plugin's tab. Where a tab is given, what it shows beside itself is asked
for when it is opened; else at once."""


class Places:
    """Which plugin is in which tab, the same for every open page."""

    def __init__(self, found: Found) -> None:
        self.found = found
        plugins = sorted(found.plugins.values(), key=lambda plugin: plugin.messages_field is None)
        self._names = [plugin.name for plugin in plugins] + [""] * SPARE
        self._drawn: list[Plugin | None] = [*plugins, *[None] * SPARE]
        self.first = [p if n < AT_ONCE else None for n, p in enumerate(self._drawn)]
        """What is part of the page as it was built."""
        self._since = [found.version] * len(self._names)
        self._turn = threading.Lock()  # open pages ask at the same time

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self._names)))

    def at(self, number: int) -> Plugin | None:
        """The plugin in a place, as it is now."""
        return self.found.plugins.get(self._names[number])

    def some(self) -> str:
        """The tab of the first plugin that there is."""
        return f"place-{next((number for number in self if self.at(number)), 0)}"

    def since(self, number: int) -> int:
        """The version in which a place came to be what it is."""
        return self._since[number]

    def revision(self, number: int) -> str:
        """Another text for every version of every plugin."""
        name = self._names[number]
        return f"{name} {self.found.revisions.get(name)}"

    def follow(self) -> list[str]:
        """Free the places of plugins that are gone and give some to the new ones.

        Returns the names of those for which there is no place left.
        """
        with self._turn:
            return self._follow()

    def _follow(self) -> list[str]:
        plugins, version = self.found.plugins, self.found.version
        self._names = [name if name in plugins else "" for name in self._names]
        waiting = [name for name in plugins if name not in self._names]
        for number, name in enumerate(self._names):
            if not name and waiting:
                self._names[number] = waiting.pop(0)
        for number in self:
            if self._drawn[number] is not self.at(number):
                self._drawn[number], self._since[number] = self.at(number), version
        return waiting


def plugin_tabs(
    places: Places,
    draw: Draw,
    list_page: Callable[[list[str]], str] | None = None,
    ours: Callable[[], None] = lambda: None,
) -> None:
    """Build the row of tabs inside the page that is open; without `list_page` none that lists the
    plugins. `ours` builds those that belong to no plugin."""
    outputs: list[Any] = []
    with gr.Tabs() as tabs:
        for number in places:
            outputs += _place(places, number, draw)
        ours()
        if list_page:
            with gr.Tab(word("Plugins"), id=LIST) as last:
                listed = gr.Markdown(elem_id="plugins-page")
            last.select(lambda: list_page(places.follow()), None, listed, **QUIET)

    def follow(_: str, drawn: str, chosen: str) -> list[Any]:
        version, left_over = places.found.version, places.follow()
        now: list[Any] = []
        for number in places:
            changed = places.since(number) > int(drawn)
            now += _now(places, number) if changed else [gr.skip()] * 3
        place = (chosen or "").removeprefix("place-")
        gone = place.isdecimal() and not places.at(int(place))
        selected = gr.Tabs(selected=LIST if list_page else places.some()) if gone else gr.skip()
        told = [list_page(left_over)] if list_page else []
        return [*now, selected, str(version), *told]

    seen = gr.Textbox(str(places.found.version), visible="hidden")
    drawn = gr.Textbox(str(places.found.version), visible="hidden")
    chosen = gr.Textbox(visible="hidden")
    gr.Timer(LOOK_SECONDS).tick(None, seen, seen, js=ask(list_page is not None), **QUIET)
    shown = [*outputs, tabs, drawn, *([listed] if list_page else [])]
    seen.change(follow, [seen, drawn, chosen], shown, js=CHOSEN, **QUIET)


def ask(for_admins: bool) -> str:
    """What an open page does every second; without Gradio's queue, since each that somebody sees
    does so."""
    address = VERSION + f"?{FOR_ADMINS}" * for_admins
    return f"""async (seen) => {{
    if (document.hidden) return seen;
    try {{
        const answer = await fetch("{address}");
        lmapps.answered(answer);
        lmapps.follow(answer.headers.get("{PROCESS}"));
        return answer.ok ? await answer.text() : seen;
    }} catch {{ lmapps.lost = true; lmapps.answered(null); return seen; }}
}}"""


def _place(places: Places, number: int, draw: Draw) -> list[Any]:
    """One tab: what it shows at first, and what is drawn when it is opened or has changed."""
    plugin, at_first = places.at(number), places.first[number]
    title = plugin_word(plugin, plugin.title) if plugin else ""
    with gr.Tab(title, id=f"place-{number}", visible=plugin is not None) as tab:
        with gr.Column(visible=at_first is not None) as first:
            if at_first:  # one visit is one question: the others' when they are looked at
                draw(at_first, tab if number else None)
        drawn = gr.Textbox(visible="hidden")

        # One at a time: Gradio adds the events of what is drawn to one dictionary of the page.
        @gr.render(  # type: ignore[untyped-decorator]
            [drawn], [drawn.change], show_progress="hidden",
            concurrency_limit=1, concurrency_id="draw",
        )  # fmt: skip
        def again(revision: str) -> None:
            plugin = places.at(number)
            if plugin and revision:
                draw(plugin, None)

    if plugin and not at_first:
        tab.select(lambda: places.revision(number), None, drawn, **QUIET)
    return [tab, first, drawn]


def _now(places: Places, number: int) -> list[Any]:
    """A place's tab, what it showed at first, and the revision to draw instead ("" = none)."""
    plugin, at_first = places.at(number), places.first[number]
    if plugin is None:
        # Gradio lists a tab that becomes `visible=False` again by itself; "hidden" stays away.
        return [gr.Tab(visible="hidden"), gr.Column(visible=False), ""]
    as_first = plugin is at_first
    title = plugin_word(plugin, plugin.title)
    revision = "" if as_first else places.revision(number)
    return [gr.Tab(title, visible=True), gr.Column(visible=as_first), revision]
