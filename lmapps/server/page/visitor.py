"""An open page -> whose it is: a random name that the browser keeps, the same in every tab.

What a person saves belongs to that name, where people have no accounts (`server/who.py`). It is as
good as a password: nobody else is told it. The page says it with every event, so that a server
needs to know nothing of a page to answer it: one that was started anew goes on where it was.
"""

from __future__ import annotations

import gradio as gr

from lmapps.server.page.widgets import QUIET
from lmapps.server.store.store import Store
from lmapps.server.who import adopt_on_page, owner_on_page

# Asked for and made in one go: two tabs that open at the same time get the same name.
NAME = """(() => {
    const made = [...crypto.getRandomValues(new Uint8Array(16))];
    const name = localStorage.getItem("lmapps-visitor")
        ?? made.map(byte => byte.toString(16).padStart(2, "0")).join("");
    localStorage.setItem("lmapps-visitor", name);
    return name;
})()"""
"""A JavaScript expression of the name."""


class Visitor:
    """`box` holds the name: an input of every event that is about what somebody keeps."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.box = gr.Textbox(visible="hidden", elem_id="visitor")

    def connect(self, page: gr.Blocks) -> None:
        """Fill the box as the page opens; the server is not asked for that."""
        page.load(
            None, None, self.box, js=f"() => {{ lmapps.arrive(); return {NAME}; }}",
            **QUIET,
        )  # fmt: skip

    def owner(self, name: str | None) -> str:
        """Whose things the page shows; '' as long as it has not said its name."""
        return owner_on_page(name or "")

    def arrived(self, name: str | None) -> str:
        """The same as the page opens."""
        adopt_on_page(self.store, name or "")
        return self.owner(name)
