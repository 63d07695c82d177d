"""What does not work at the moment: one calm line on every open page, as long as it lasts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmapps.server.health import Health, Part

pytestmark = pytest.mark.browser


TOLD = {"en-US": "Nothing can be kept at the moment", "zh-CN": "暂时无法保存"}


@pytest.mark.parametrize("language", TOLD)
def test_a_line_comes_and_goes_with_the_trouble(
    visit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    page = visit(language=language)
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
