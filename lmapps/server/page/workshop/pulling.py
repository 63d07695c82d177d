"""A model's name -> the model on this machine: the pull in a thread, its progress as events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from html import escape
from pathlib import Path

from lmapps.errors import SettingsError
from lmapps.pull.known import Progress
from lmapps.server.page.languages import later, word
from lmapps.server.page.workshop.modelview import megabytes

REFRESH_SECONDS = 0.2
STAGES = later("downloading"), later("copying"), later("checking"), later("converting")
"""What a pull tells of itself."""


class Ended(Exception):
    """Whoever wanted the model has left."""


class Pulling:
    """One pull. `folder` is where the model is, once its events have ended."""

    folder: Path

    def __init__(self, name: str, licence: str) -> None:
        if not name:
            raise SettingsError(
                word("no model is named: choose one, or write OWNER/NAME or a path")
            )
        self._name, self._licence = name, licence
        self._latest: Progress | None = None
        self._is_left = False

    async def events(self) -> AsyncGenerator[Progress, None]:
        """The progress whenever it is another one. Raises what `pull` raises; closing it ends the
        pull."""
        work = asyncio.create_task(asyncio.to_thread(self._pull))
        told = None
        try:
            while not work.done():
                await asyncio.wait([work], timeout=REFRESH_SECONDS)
                if self._latest is not None and self._latest is not told:
                    told = self._latest
                    yield told
            self.folder = await work
        finally:
            self._is_left = True
            work.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _pull(self) -> Path:
        from lmapps.pull.apart import fetch_apart  # brings torch, as the next
        from lmapps.pull.pull import pull

        return pull(
            self._name, licence=self._licence, on_progress=self._note, fetch=fetch_apart
        )  # fmt: skip

    def _note(self, progress: Progress) -> None:
        if self._is_left:
            raise Ended
        self._latest = progress


def bar_html(progress: Progress | None, told: str = "") -> str:
    """How far it is, or how it ended."""
    if progress is None:
        return f'<div class="run-view"><p>{escape(told)}</p></div>'
    share = progress.done / progress.total if progress.total else 0.0
    size = f" {megabytes(progress.done)}" if progress.total else ""
    of = f" / {megabytes(progress.total)}" if progress.total else ""
    stage = escape(str(word(progress.stage)))
    return (
        f'<div class="run-view"><div class="run-head">{stage}{size}{of}</div>'
        f'<div class="run-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{share * 100:.0f}" aria-label="{stage}">'
        f'<div style="width: {share:.1%}"></div></div></div>'
    )
