"""The page as a person uses it, in Debian's chromium: chat, forms, Stop, phone width, reload."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmapps.discovery import discover
from lmapps.paths import plugin_folders
from tests.browser.hands import button, device, open_tab, wait_until_pressable

pytestmark = pytest.mark.browser
FIFTH = '''"""Write a haiku."""

from lmapps import Decoding, plugin


@plugin(title="Haiku", decoding=Decoding(temperature=0.9, max_new_tokens=40), examples=[["rain"]])
def haiku(topic: str, lines: int = 3) -> str:
    """Write a haiku."""
    return f"Write a haiku of {lines} lines about {topic}."
'''


@pytest.fixture(scope="module")
def served(serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The four plugins, a fifth file and a broken one, at about thirty tokens a second."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "haiku.py").write_text(FIFTH)
    (folder / "broken.py").write_text("def f(:\n")
    with serve(discover([plugin_folders()[0], folder]), 0.03) as running:
        yield running


@pytest.fixture(params=[1280, pytest.param(390, marks=pytest.mark.long)])
def page(browser: Any, served: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A fresh visitor. Anything fetched from outside or logged as an error fails the test."""
    context = browser.new_context(**device(request.param))
    page = context.new_page()
    outside, errors = list[str](), list[str]()
    page.on("request", lambda r: outside.append(r.url) if is_outside(r.url, served) else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(served.url)
    page.wait_for_selector("#send:not([disabled])")
    yield page
    context.close()
    served.wait_until_idle()
    assert not outside and not errors


def is_outside(url: str, served: Any) -> bool:
    return not url.startswith((served.url, "data:", "blob:"))


def replies(page: Any) -> Any:
    return page.locator("#chat-chat .bot.message")


def send(page: Any, text: str) -> None:
    page.fill("#message textarea", text)
    button(page, "Send").click()


def test_chat_streams_and_is_kept_over_a_reload(page: Any) -> None:
    send(page, "Hello there")
    replies(page).first.wait_for()
    lengths = set()
    while button(page, "Send").is_disabled():
        lengths.add(len(replies(page).first.inner_text()))
        page.wait_for_timeout(50)
    assert len(lengths) > 3, "the reply grew while it was written"
    wait_until_pressable(page, "Send")
    said = replies(page).first.inner_text().strip()
    assert said
    page.wait_for_timeout(500)
    page.reload()
    replies(page).first.wait_for()
    assert replies(page).first.inner_text().strip() == said
    assert page.locator("#chat-chat .user.message").first.inner_text().strip() == "Hello there"


def test_stop_stops_and_the_conversation_goes_on(
    page: Any, served: Any, leaving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(served, "seconds_per_step", 0.2)  # a late browser still sees it written
        send(page, "Tell me everything")
        replies(page).first.wait_for()
        wait_until_pressable(page, "Stop")
        left = leaving(served)
        button(page, "Stop").click()
        left.frees_its_slot()
    wait_until_pressable(page, "Send")
    said = replies(page).first.inner_text()
    for _ in range(10):
        page.wait_for_timeout(50)
        assert not page.get_by_text("Error", exact=True).count(), "to stop is no fault"
    assert replies(page).first.inner_text() == said
    page.get_by_text("Stopped.").locator("visible=true").wait_for()
    send(page, "And then?")
    replies(page).nth(1).wait_for()


def test_retry_answers_again_and_new_chat_empties(page: Any) -> None:
    send(page, "Hello")
    wait_until_pressable(page, "Retry")
    first = replies(page).first.inner_text()
    button(page, "Retry").click()
    wait_until_pressable(page, "Stop")
    wait_until_pressable(page, "Retry")
    assert replies(page).count() == 1
    assert replies(page).first.inner_text() != first
    button(page, "New chat").click()
    page.wait_for_function("!document.querySelector('#chat-chat .message')")


def test_closing_the_page_frees_its_slot(browser: Any, served: Any, leaving: Any) -> None:
    page = browser.new_page()
    page.goto(served.url)
    page.wait_for_selector("#send:not([disabled])")
    send(page, "Tell me everything")
    replies(page).first.wait_for()
    left = leaving(served)
    page.close()
    left.frees_its_slot()


def test_a_form_is_filled_by_an_example_and_writes(page: Any) -> None:
    open_tab(page, "News")
    page.locator("tr", has_text="Storm closes airport").locator("visible=true").click()
    headline = page.locator("#field-headline textarea, #field-headline input").first
    page.wait_for_function("e => e.value.startsWith('Storm')", arg=headline.element_handle())
    button(page, "Write").click()
    wait_until_pressable(page, "Stop")
    wait_until_pressable(page, "Write")
    assert page.locator("#reply-news").inner_text().strip()
    assert page.locator("#reply-news button").count() >= 1, "a button to copy"


def test_an_empty_form_says_what_is_missing(page: Any) -> None:
    open_tab(page, "News")
    button(page, "Write").click()
    page.get_by_text(re.compile("Headline is empty|needs the field 'Headline'")).wait_for()


def test_a_file_fills_the_passage_dropped_or_chosen_and_a_binary_one_is_refused(
    page: Any, tmp_path: Path
) -> None:
    open_tab(page, "Summarize")
    (tmp_path / "story.txt").write_text("The cat sat on the mat.")
    (tmp_path / "bad.txt").write_bytes(b"MZ\0\1")
    box = page.locator("#field-text textarea").element_handle()
    dropped = page.evaluate_handle(
        """() => {
            const all = new DataTransfer();
            all.items.add(new File(["Dropped text."], "drop.md", {type: "text/markdown"}));
            return all;
        }"""
    )
    place = page.locator("#drop-text button[aria-dropeffect]")
    place.dispatch_event("drop", {"dataTransfer": dropped})
    page.wait_for_function("e => e.value === 'Dropped text.'", arg=box)
    chooser = page.locator("#drop-text input[type=file]")
    chooser.set_input_files(tmp_path / "story.txt")
    page.wait_for_function("e => e.value === 'The cat sat on the mat.'", arg=box)
    chooser.set_input_files(tmp_path / "bad.txt")
    page.get_by_text("bad.txt is a binary file").wait_for()
    assert box.input_value() == "The cat sat on the mat.", "what was there stays"


def test_a_fifth_plugin_has_its_tab_and_a_broken_one_its_reason(page: Any) -> None:
    open_tab(page, "Haiku")
    page.locator("#field-topic textarea, #field-topic input").first.fill("rain")
    button(page, "Write").click()
    wait_until_pressable(page, "Stop")
    wait_until_pressable(page, "Write")
    assert page.locator("#reply-haiku").inner_text().strip()
    open_tab(page, "Plugins")
    page.locator("#plugins-page", has_text="haiku.py").wait_for()
    listed = page.locator("#plugins-page").inner_text()
    assert "haiku.py" in listed and "broken.py" in listed and "not Python" in listed


def test_decoding_settings_are_folded_and_count(page: Any) -> None:
    open_tab(page, "Haiku")
    assert not page.get_by_label("Seed").locator("visible=true").count()
    page.get_by_text("Decoding", exact=True).locator("visible=true").click()
    page.get_by_label("Seed").locator("visible=true").fill("7")
    page.locator("#field-topic textarea, #field-topic input").first.fill("rain")
    texts = []
    for _ in range(2):
        button(page, "Write").click()
        wait_until_pressable(page, "Stop")
        wait_until_pressable(page, "Write")
        texts.append(page.locator("#reply-haiku").inner_text())
    assert texts[0] == texts[1]


def test_the_page_fits_a_phone(browser: Any, served: Any) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(served.url)
    page.wait_for_selector("#send:not([disabled])")
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    send(page, "Hello")
    replies(page).first.wait_for()
    for name in ("Send", "Stop", "Retry", "New chat"):
        box = button(page, name).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    page.close()
    served.wait_until_idle()
