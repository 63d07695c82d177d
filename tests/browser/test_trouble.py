"""What does not work at the moment: one calm line on every open page, as long as it lasts."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from lmapps.engine.backends.source import Source
from lmapps.server import health
from lmapps.server.health import Health, Part
from lmapps.server.page.trouble import DEGRADED, LINES, NOT_LOADED

pytestmark = pytest.mark.browser


TOLD = {"en-US": "Nothing can be kept at the moment", "zh-CN": "暂时无法保存"}


@pytest.mark.parametrize(("language", "width"), [*zip(TOLD, (1280, 390), strict=True)])
def test_a_line_comes_and_goes_with_the_trouble(
    visit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, language: str, width: int
) -> None:
    page = visit(language=language, width=width)
    line = page.locator("#trouble")
    assert not line.is_visible()
    with monkeypatch.context() as patch:

        async def failed(_: Health) -> list[Part]:
            return [Part("database", "database", "failed", "locked <img src=x>")]

        patch.setattr(Health, "parts", failed)
        line.wait_for(timeout=20_000)
        assert TOLD[language] in line.inner_text() and line.get_attribute("role") == "status"
        if shots := __import__("os").environ.get("SHOTS"):
            page.screenshot(path=str(Path(shots) / f"trouble-{language}.png"))
    line.wait_for(state="hidden", timeout=20_000)


def test_a_server_that_does_not_answer_is_told_by_the_page_itself(
    visit: Callable[..., Any],
) -> None:
    page = visit()
    page.route("**/plugins/version*", lambda route: route.fulfill(status=502, body=""))
    line = page.locator("#trouble", has_text="The server does not answer at the moment.")
    line.wait_for(timeout=20_000)
    page.unroute("**/plugins/version*")
    line.wait_for(state="hidden", timeout=20_000)


Cause = Callable[[Any, pytest.MonkeyPatch, ExitStack], None]
"""Makes the trouble, on a server, until the patch and the stack are undone."""


def locked(served: Any, _: pytest.MonkeyPatch, stack: ExitStack) -> None:
    file = served.store.database.url.database
    stack.enter_context(closing(sqlite3.connect(file, isolation_level=None))).execute(
        "BEGIN IMMEDIATE"
    )


def failed(comes_back: bool) -> Cause:
    """A model that answers nobody: what `Health` makes of an engine that ended is tried without."""
    part = Part("model", "it", "failed", "SystemExit: 1", comes_back)
    return lambda _, patch, __: patch.setattr(Health, "_of_models", lambda _: [part])


def no_memory(served: Any, patch: pytest.MonkeyPatch, _: ExitStack) -> None:
    patch.setattr(served.engine.counts, "trouble", (time.monotonic(), "not enough memory"))


CAUSES: dict[str, tuple[str, Cause]] = {
    "an engine ended": (LINES["model"], failed(comes_back=True)),
    "a model is not there": (NOT_LOADED, failed(comes_back=False)),
    "the database is locked": (LINES["database"], locked),
    "the disk is full": (
        LINES["disk"], lambda _, patch, __: patch.setattr(health, "NO_BYTES", 2**60)
    ),
    "the disk has little room": (
        DEGRADED["disk"], lambda _, patch, __: patch.setattr(health, "LITTLE_BYTES", 2**60)
    ),
    "memory ended": (DEGRADED["model"], no_memory),
    "the files of a model are gone": (
        DEGRADED["model"], lambda _, patch, __: patch.setattr(Source, "folder", Path("/gone"))
    ),
    "the clock jumped": (
        DEGRADED["clock"], lambda _, patch, __: patch.setattr(health, "JUMP_SECONDS", -1.0)
    ),
}  # fmt: skip


def test_each_kind_of_trouble_comes_and_goes_on_an_open_page(
    visit: Callable[..., Any], served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = {*LINES.values(), *DEGRADED.values(), NOT_LOADED}
    assert {line for line, _ in CAUSES.values()} == lines, "a new one is seen too"
    for name in ("FRESH_SECONDS", "LITTLE_BYTES", "NO_BYTES", "TOLD_SECONDS"):
        monkeypatch.setattr(health, name, 0.0)
    page = visit()
    line = page.locator("#trouble")
    for told, cause in CAUSES.values():
        with monkeypatch.context() as patch, ExitStack() as stack:
            patch.setattr(health, "TOLD_SECONDS", 0.5)
            cause(served, patch, stack)
            page.locator("#trouble", has_text=told).wait_for(timeout=20_000)
            assert line.inner_text() == told
        line.wait_for(state="hidden", timeout=20_000)
