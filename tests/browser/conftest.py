"""Debian's chromium and one server for all who only look at it, as visitors of many kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmapps.discovery import discover
from tests.browser.hands import device
from tests.conftest import missing

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser on a busy machine is now and then too late: such a test has two more tries, and the
    report says so (`R`)."""
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.flaky(reruns=2))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Once a module: its event loop must not outlive the tests that use it."""
    if not Path(CHROMIUM).exists():
        missing(f"no {CHROMIUM}: install Debian's chromium to run the browser tests")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def served(serve: Callable[..., Any]) -> Iterator[Any]:
    """A server with the four plugins and a random model at a readable speed."""
    with serve(discover(), 0.01) as running:
        yield running


@pytest.fixture
def visit(browser: Any, served: Any) -> Iterator[Callable[..., Any]]:
    """`visit(width=390, scheme="dark", language="zh-CN")` -> the page as a new visitor sees it.

    Anything fetched from another host, not there, or logged as an error, fails the test.
    """
    contexts, faults = list[Any](), list[str]()

    def note(request: Any) -> None:
        if not request.url.startswith((served.url, "data:", "blob:")):
            faults.append(f"fetched {request.url}")

    def look(answer: Any) -> None:
        if answer.status == 404:
            faults.append(f"not there: {answer.url}")

    def open(width: int = 1280, scheme: str = "light", language: str = "en-US") -> Any:
        context = browser.new_context(**device(width), color_scheme=scheme, locale=language)
        contexts.append(context)
        page = context.new_page()
        page.on("request", note)
        page.on("response", look)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(served.url)
        page.wait_for_selector("#send:not([disabled])")
        return page

    yield open
    for context in contexts:
        context.close()
    served.wait_until_idle()
    assert not faults
