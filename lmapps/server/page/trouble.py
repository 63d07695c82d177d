"""The parts of a server that do not work -> one calm line on every open page, while it lasts.

It stands in a header beside the answer that an open page asks for every second (`places.py`), and
`page.js` shows it. Where the server does not answer at all, the page says so by itself. What is
only degraded is told on the page of admins. Whoever asks for that is not looked up: it says no more
than the states that `/health` tells everybody.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from lmapps.server.health import Part
from lmapps.server.page.languages import known, later, word_for

HEADER = "x-lmapps-trouble"
FOR_ADMINS = "admins"
"""In the query of what is asked every second, by the page of admins."""
NOT_LOADED = later("The model cannot be loaded: tell the one who runs this server.")
LINES = {
    "model": later("The model does not answer at the moment: it is being started again."),
    "database": later("Nothing can be kept at the moment, until the database is there again."),
    "disk": later("The disk of this server is full: tell the one who runs it."),
}
DEGRADED = {
    "model": later("A model needs looking after: the Models tab says which, and why."),
    "disk": later("The disk of this server has little room left."),
    "clock": later("The clock of this server has jumped: sessions and quotas of a day follow it."),
}
GONE = later("The server does not answer at the moment. What you have written stays on this page.")


def told_beside(request: Any, parts: Sequence[Part]) -> dict[str, str]:
    """The header, in the visitor's language; none where all is well."""
    for_admins = FOR_ADMINS in request.query_params
    lines = dict.fromkeys(_line(part, for_admins) for part in parts)
    line = " ".join(word_for(request, text) for text in lines if text)
    return {HEADER: quote(line)} if line else {}


def _line(part: Part, for_admins: bool) -> str:
    if part.state == "failed":
        is_lost = part.kind == "model" and not part.comes_back
        return NOT_LOADED if is_lost else LINES.get(part.kind, "")
    return DEGRADED.get(part.kind, "") if part.state == "degraded" and for_admins else ""


def gone() -> str:
    """What the page says by itself, in every language: a JavaScript object, by code."""
    told = {code: language.words.get(GONE, GONE) for code, language in known().items()}
    return json.dumps({"en": GONE, **told})
