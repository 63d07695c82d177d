"""The parts of a server that do not work -> one calm line on every open page, while it lasts.

It stands in a header beside the answer that an open page asks for every second (`places.py`), and
`page.js` shows it. Where the server does not answer at all, the page says so by itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from lmapps.server.health import Part
from lmapps.server.page.languages import known, later, word_for

HEADER = "x-lmapps-trouble"
LINES = {
    "model": later("The model does not answer at the moment: it is being started again."),
    "database": later("Nothing can be kept at the moment, until the database is there again."),
    "disk": later("The disk of this server is full: tell the one who runs it."),
}
GONE = later("The server does not answer at the moment. What you have written stays on this page.")


def told_beside(request: Any, parts: Sequence[Part]) -> dict[str, str]:
    """The header, in the visitor's language; none where all is well. What is only degraded is for
    whoever runs the server (`/health`)."""
    failed = [part.kind for part in parts if part.state == "failed"]
    line = " ".join(word_for(request, text) for kind, text in LINES.items() if kind in failed)
    return {HEADER: quote(line)} if line else {}


def gone() -> str:
    """What the page says by itself, in every language: a JavaScript object, by code."""
    told = {code: language.words.get(GONE, GONE) for code, language in known().items()}
    return json.dumps({"en": GONE, **told})
