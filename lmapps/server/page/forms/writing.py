"""What a person does with a form -> the runs that are kept, the model, and what there is to see.

Knows nothing of the page, as `talk.py`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from lmapps.engine.application import Asked
from lmapps.engine.backends.backend import Backend
from lmapps.engine.models import Models
from lmapps.errors import InputError
from lmapps.plugin import Plugin
from lmapps.reply import ReplyForm
from lmapps.server.page.chat.inside import Inside, look_into
from lmapps.server.page.chat.saved import KeptRun, made_with, saved
from lmapps.server.page.languages import word
from lmapps.server.page.live import View, views
from lmapps.server.page.way import Way, changed
from lmapps.server.store.aside import aside
from lmapps.server.store.made import Made
from lmapps.server.store.runs import Run, Runs

LISTED = 20
"""The runs of a form that are offered again."""
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")


@dataclass(frozen=True)
class Written:
    """What a tab shows of a reply, as it grows."""

    view: View
    run: str | None
    """The id under which it is kept, from its first word on."""
    made: Made


class Writing:
    """One form's plugin on the models, with its runs in a store."""

    def __init__(self, plugin: Plugin, models: Models, runs: Runs) -> None:
        self.plugin, self.models, self._runs = plugin, models, runs

    async def write(self, owner: str, way: Way) -> AsyncGenerator[Written, None]:
        """Ask the model, and keep what was filled in with the reply."""
        stream = views(self.models, self.plugin, way.fields, way.choose, way.model)
        kept = KeptRun(self._runs, owner, self.plugin.name, way.fields)
        base = way.made(self.plugin)

        def made_of(view: View) -> Made:
            asked = None if view.asked is None else view.asked.messages
            return replace(made_with(base, view), asked=asked)

        async with aclosing(saved(stream, kept, made_of)) as news:
            async for view in news:
                yield Written(view, kept.id, made_of(view))

    def last(self, owner: str) -> Sequence[Run]:
        """The owner's last runs of this form, the newest first."""
        return self._runs.last(owner, self.plugin.name, LISTED)

    def open(self, owner: str, run: str) -> Run:
        """One of them, to be filled in again."""
        return self._runs.load(owner, run)

    def clear(self, owner: str) -> float:
        """Empty the list; what `restore` needs."""
        return self._runs.clear(owner, self.plugin.name)

    def restore(self, owner: str, cleared: float) -> None:
        self._runs.restore(owner, self.plugin.name, cleared)

    async def inside(
        self, owner: str, run: str | None, model: str | None = None, *, scored: bool = False
    ) -> Inside:
        """How a run's reply came about; see `look_into`. Raises `InputError`."""
        if run is None:
            raise InputError(word("there is no reply yet: write one first"))
        kept = await aside(self.open, owner, run)
        made, given = kept.made, kept.made.asked
        if given is None:
            return Inside(made)
        decoding = self.plugin.reply_form.hold(changed(self.plugin.decoding, made.decoding))

        async def ask(backend: Backend) -> Asked:
            return Asked(given, decoding, backend)

        written = made.written or kept.reply
        return await look_into(Inside(made), self.models, model, ask, written if scored else None)


def lengths(plugin: Plugin, way: Way, reply: str) -> str:
    """Words in and out of a form that makes a text of a long one, and how much shorter it is."""
    if plugin.passage_field is None or type(plugin.reply_form) is not ReplyForm or not reply:
        return ""
    given = count_words(str(way.fields.get(plugin.passage_field) or ""))
    replied = count_words(reply)
    told = word("{given} words in, {replied} out", given=given, replied=replied)
    if 0 < replied < given:
        told += word(": {share} of the length", share=f"{replied / given:.0%}")
    return str(told)


def count_words(text: str) -> int:
    """Words as a person counts them: of Chinese and Japanese, the characters."""
    return len(_WORD.findall(text))
