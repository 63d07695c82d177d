"""Every form in one visit: examples, a reply that grows in its own component, copy, download."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from lmapps import plugin
from lmapps.discovery import Found
from tests.browser.hands import (
    button,
    fill,
    open_tab,
    seen,
    shown,
    unfold,
    value,
    wait_for,
    wait_until_pressable,
)

pytestmark = pytest.mark.browser
STORM = ("Storm closes airport for two days", "weather", "news report", "one paragraph")
HINT = "Fill in the form and press Write"


@pytest.fixture(params=[1280, pytest.param(390, marks=pytest.mark.long)])
def page(visit: Callable[..., Any], request: pytest.FixtureRequest) -> Iterator[Any]:
    page = visit(width=request.param)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    return page


def grown(page: Any, place: str) -> set[int]:
    """Press Write; the lengths that the reply had until it ended."""
    button(page, "Write").click()
    page.locator("button.stop-reply:not([disabled])").locator("visible=true").wait_for()
    lengths = set[int]()
    while button(page, "Write").is_disabled():
        lengths.add(len(shown(page, place)))
        page.wait_for_timeout(30)
    return lengths


def copied(page: Any, name: str) -> str:
    page.locator(f"#reply-{name}").get_by_label(re.compile("^Copy")).first.click()
    wait_for(page, lambda: bool(page.evaluate("navigator.clipboard.readText()")))
    return str(page.evaluate("navigator.clipboard.readText()"))


def downloaded(page: Any, place: Any, folder: Path) -> tuple[str, str]:
    with page.expect_download() as download:
        place.click()
    download.value.save_as(folder / "reply")
    return str(download.value.suggested_filename), (folder / "reply").read_text()


def test_the_article_is_markdown_from_an_example_to_a_file(page: Any, tmp_path: Path) -> None:
    open_tab(page, "News")
    page.get_by_text(HINT).locator("visible=true").wait_for()
    seen(page, "tr").filter(has_text="Storm closes airport").click()
    names = "headline", "topic", "style", "length"
    wait_for(page, lambda: tuple(value(page, f"#field-{name}") for name in names) == STORM)
    assert len(grown(page, "#reply-news")) > 2, "it grew while it was written"
    assert not page.get_by_text(HINT).locator("visible=true").count()
    assert not page.get_by_text("words in").locator("visible=true").count(), "no long text"
    name, text = downloaded(page, seen(page, "#download-news"), tmp_path)
    assert name == "news.md" and text.strip() and copied(page, "news").strip() == text.strip()


def test_code_is_highlighted_as_its_language_from_an_example_to_a_file(
    page: Any, tmp_path: Path
) -> None:
    open_tab(page, "Code")
    seen(page, "tr").filter(has_text="palindrome").click()
    wait_for(page, lambda: "def is_palindrome" in value(page, "#field-instruction"))
    assert len(grown(page, "#reply-code .cm-content")) > 2
    assert page.locator("#reply-code .cm-content[data-language=python]").count() == 1
    link = page.locator("#reply-code").get_by_label("Download")
    name, text = downloaded(page, link.or_(page.locator("#reply-code a[download]")).first, tmp_path)
    assert name.endswith(".py") and text.strip() and copied(page, "code").strip() == text.strip()
    assert not page.get_by_text("words in").locator("visible=true").count(), "of code nobody counts"


def test_the_runs_of_a_form_come_back_and_are_cleared_with_undo(
    page: Any, served: Any, tmp_path: Path
) -> None:
    open_tab(page, "News")
    first = ""
    for headline in ("A quiet day", "A storm at sea"):
        fill(page, "#field-headline", headline)
        grown(page, "#reply-news")
        # As it is, not as it is drawn: Markdown comes a moment after the buttons.
        written = downloaded(page, seen(page, "#download-news"), tmp_path)[1]
        first = first or written.replace("\0", "␀")  # which is how it is kept
    unfold(page, "Last runs")
    runs = seen(page, "#runs-news label")
    wait_for(page, lambda: runs.count() == 2)
    page.goto(served.url)
    page.wait_for_selector("#send:not([disabled])")
    open_tab(page, "News")
    unfold(page, "Last runs")
    runs.filter(has_text="A quiet day").click()
    wait_for(page, lambda: value(page, "#field-headline") == "A quiet day")
    assert downloaded(page, seen(page, "#download-news"), tmp_path)[1] == first
    unfold(page, "Inside the reply")
    seen(page, "#score").click()
    seen(page, ".strip button").first.wait_for()
    button(page, "Clear the list").click()
    wait_for(page, lambda: runs.count() == 0)
    button(page, "Undo clear").click()
    wait_for(page, lambda: runs.count() == 2)


def test_on_a_phone_the_reply_is_gone_to_when_it_is_asked_for(visit: Callable[..., Any]) -> None:
    page = open_tab(visit(width=390), "News")
    fill(page, "#field-headline", "A storm at sea")
    top = "document.querySelector('#reply-news').getBoundingClientRect().top"
    assert page.evaluate(top) > 844
    button(page, "Write").click()
    wait_for(page, lambda: page.evaluate(top) < 600)


@plugin(title="Mood", reply=Literal["merry", "rather sad"])
def mood(text: str) -> str:
    """Say how a text sounds."""
    return f"How does it sound? {text}"


def test_one_of_several_texts_is_copied_and_downloaded_like_any_other_reply(
    browser: Any, serve: Callable[..., Any], tmp_path: Path
) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    with serve(Found({"mood": mood}), 0.0) as server:
        page = context.new_page()
        page.goto(server.url)
        fill(page, "#field-text", "The cat ran up a tree.")
        wait_until_pressable(page, "Write")
        button(page, "Write").click()
        wait_for(page, lambda: shown(page, "#reply-mood") in ("merry", "rather sad"))
        button(page, "Copy").click()
        wait_for(page, lambda: bool(page.evaluate("navigator.clipboard.readText()")))
        told = page.evaluate("navigator.clipboard.readText()")
        assert told == shown(page, "#reply-mood")
        assert downloaded(page, seen(page, "#download-mood"), tmp_path) == ("mood.txt", told)
        page.close()
    context.close()
