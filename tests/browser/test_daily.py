"""What a person does every day: presets, personas, a look inside, runs of before, the keys."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmapps.server.page.presets import PresetPanel
from tests.browser.hands import (
    button,
    choose,
    open_tab,
    seen,
    unfold,
    wait_for,
    wait_until_pressable,
)

pytestmark = pytest.mark.browser
Visit = Callable[..., Any]
LONG = pytest.mark.long
WIDTHS = pytest.mark.parametrize("width", [1280, 390])
DESK = pytest.mark.parametrize("width", [1280, pytest.param(390, marks=LONG)])
PHONE = pytest.mark.parametrize("width", [390, pytest.param(1280, marks=LONG)])
"""The other one in the long tier."""


def say(page: Any, text: str) -> None:
    """Send a message by Enter and wait for its reply to end."""
    page.fill("#message textarea", text)
    page.press("#message textarea", "Enter")
    wait_until_pressable(page, "Stop")
    wait_until_pressable(page, "Send")


def temperature(page: Any) -> str:
    return str(
        page.get_by_label("number input for Temperature").locator("visible=true").input_value()
    )


def slow_where_changed(patch: pytest.MonkeyPatch) -> None:
    """The title of a panel in which some controls are set and others not yet takes a while."""
    title = PresetPanel._title

    def slow(panel: Any, *values: Any) -> str:
        if (found := title(panel, *values)).endswith("changed"):
            time.sleep(0.5)
        return found

    patch.setattr(PresetPanel, "_title", slow)


@WIDTHS
def test_a_preset_sets_the_sliders_is_saved_by_name_and_remembered(
    visit: Visit, served: Any, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    page = visit(width=width)
    unfold(page, "Decoding")
    box = "#preset-chat-decoding"
    choose(page, box, "Creative")
    wait_for(page, lambda: temperature(page) == "1")
    seen(page, "button.label-wrap").filter(has_text="Decoding: Creative").wait_for()
    page.get_by_label("number input for Temperature").locator("visible=true").fill("1.3")
    page.keyboard.press("Tab")
    seen(page, "button.label-wrap").filter(has_text="Decoding: changed").wait_for()
    seen(page, f"{box} input").fill("My own")
    page.keyboard.press("Enter")
    button(page, "Save").click()
    page.get_by_text("Saved as My own.").wait_for()
    choose(page, box, "Precise")
    wait_for(page, lambda: temperature(page) == "0.2")
    written = "localStorage.getItem('lmapps-preset-chat-decoding')"
    before = page.evaluate(written)
    choose(page, box, "My own")
    wait_for(page, lambda: temperature(page) == "1.3")
    wait_for(page, lambda: page.evaluate(written) != before)
    slow_where_changed(monkeypatch)
    page.goto(served.url)
    page.wait_for_selector("#send:not([disabled])")
    unfold(page, "Decoding: My own")
    wait_for(page, lambda: temperature(page) == "1.3")
    open_tab(page, "News")
    unfold(page, "Decoding")
    choose(page, "#preset-news-decoding", "My own")
    wait_for(page, lambda: temperature(page) == "1.3")
    assert "Decoding: My own" in page.locator("#panel-chat-decoding").text_content(), "still"
    button(page, "Delete").click()
    page.get_by_text("Deleted. Save brings it back.").wait_for()
    seen(page, "#preset-news-decoding input").fill("Precise")
    page.keyboard.press("Enter")
    button(page, "Delete").click()
    page.get_by_text("Precise is always there").wait_for()


@DESK
def test_a_persona_is_saved_and_a_reply_says_with_which_it_was_made(
    visit: Visit, width: int
) -> None:
    page = visit(width=width)
    unfold(page, "Persona")
    seen(page, "#field-persona textarea, #field-persona input").first.fill("You are a pirate.")
    seen(page, "#preset-chat-fields input").fill("Pirate")
    page.keyboard.press("Enter")
    button(page, "Save").click()
    page.get_by_text("Saved as Pirate.").wait_for()
    seen(page, "button.label-wrap").filter(has_text="Persona: Pirate").wait_for()
    say(page, "Who are you?")
    choose(page, "#preset-chat-fields", "None")
    wait_for(
        page,
        lambda: (
            seen(page, "#field-persona textarea, #field-persona input").first.input_value() == ""
        ),
    )
    unfold(page, "Inside the reply")
    page.get_by_text("persona Pirate").locator("visible=true").wait_for()
    page.get_by_text("You are a pirate.").locator("visible=true").first.wait_for()
    stranger = visit()
    unfold(stranger, "Persona")
    seen(stranger, "#preset-chat-fields input").click()
    offered = [text.strip("✓\n ") for text in seen(stranger, "ul [role=option]").all_inner_texts()]
    assert offered == ["None"], "it is the first one's"


@WIDTHS
def test_any_reply_can_be_looked_into_by_pointer_finger_and_keys(visit: Visit, width: int) -> None:
    page = visit(width=width)
    say(page, "The first one")
    say(page, "The second one")
    unfold(page, "Inside the reply")
    seen(page, "#reply-number").get_by_text("Reply 2 of 2").wait_for()
    seen(page, "#reply-before").click()
    seen(page, "#reply-number").get_by_text("Reply 1 of 2").wait_for()
    seen(page, "#score").click()
    tokens = seen(page, ".strip button")
    tokens.first.wait_for()
    told = page.get_by_text("perplexity").locator("visible=true").first.inner_text()
    assert "first after" in told and "tokens/s" in told
    assert "The first one" in seen(page, ".saw .textfield").inner_text(), "what the model saw"
    ids = seen(page, ".saw textarea").input_value().split()
    assert len(ids) > 5 and all(number.isdecimal() for number in ids)
    said = page.locator("#chat-chat .bot.message").first.inner_text().split()
    assert "".join(tokens.all_inner_texts()).split()[0] in said[0] or said
    tokens.nth(2).click()
    detail = seen(page, ".detail")
    assert detail.locator(".row").count() == 5
    first = detail.inner_text()
    page.keyboard.press("ArrowRight")
    wait_for(page, lambda: detail.inner_text() != first)
    assert page.evaluate("document.activeElement.classList.contains('chosen')")
    page.keyboard.press("Home")
    assert tokens.first.get_attribute("tabindex") == "0"
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@PHONE
def test_a_reply_is_corrected_its_code_is_in_colour_and_undo_gives_the_message_back(
    visit: Visit, width: int
) -> None:
    page = visit(width=width)
    say(page, "Write a function")
    page.locator("#chat-chat .bot.message").first.hover()
    page.locator("#chat-chat").get_by_label("Edit").last.click()
    box = page.locator("#chat-chat textarea").first
    box.fill("```python\ndef one():\n    return 1\n```")
    page.locator("#chat-chat").get_by_label("Submit").first.click()
    page.get_by_text("Your correction is kept.").wait_for()
    code = page.locator("#chat-chat .bot.message pre code")
    code.wait_for()
    colours = "all => new Set(all.map(one => getComputedStyle(one).color)).size"
    wait_for(page, lambda: code.locator("span").evaluate_all(colours) > 1)
    assert page.locator("#chat-chat .bot.message pre").locator("xpath=..").locator("button").count()
    page.get_by_text("Version 2 of 2").wait_for()
    button(page, "Undo").click()
    wait_for(page, lambda: page.input_value("#message textarea") == "Write a function")
    wait_for(page, lambda: page.locator("#chat-chat .message").count() == 0)


@DESK
def test_a_summary_counts_its_words_and_a_reply_is_downloaded(
    visit: Visit, tmp_path: Path, width: int
) -> None:
    page = visit(width=width)
    open_tab(page, "Summarize")
    seen(page, "#field-text textarea").fill("The cat sat on the mat. " * 3)
    button(page, "Write").click()
    wait_until_pressable(page, "Stop")
    wait_until_pressable(page, "Write")
    page.get_by_text("18 words in,").locator("visible=true").wait_for()
    with page.expect_download() as download:
        seen(page, "#download-summarize").click()
    assert download.value.suggested_filename == "summarize.md"
    download.value.save_as(tmp_path / "reply.md")
    assert (tmp_path / "reply.md").read_text().strip()


@pytest.mark.parametrize(("width", "beside"), [(1280, True), (390, False)])
def test_a_form_stands_beside_its_reply_or_above_it_on_a_phone(
    visit: Visit, width: int, beside: bool
) -> None:
    page = visit(width=width)
    open_tab(page, "News")
    page.locator("#reply-news").wait_for(state="attached")
    page.wait_for_timeout(300)
    form = seen(page, "#field-headline").bounding_box()
    reply = page.locator("#reply-news").bounding_box()
    assert (reply["x"] >= form["x"] + form["width"]) == beside
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_shift_enter_is_a_new_line_that_stays_as_it_is_and_the_box_keeps_the_cursor(
    visit: Visit,
) -> None:
    page = visit()
    page.fill("#message textarea", "one")
    page.press("#message textarea", "Shift+Enter")
    page.keyboard.type("    two")
    assert page.input_value("#message textarea") == "one\n    two"
    page.keyboard.press("Enter")
    wait_until_pressable(page, "Stop")
    wait_until_pressable(page, "Send")
    assert "one" in page.locator("#chat-chat .user.message").first.inner_text()
    page.wait_for_timeout(200)
    page.keyboard.type("next")
    assert page.input_value("#message textarea") == "next"
    page.locator("#chat-chat .user.message").first.hover()
    page.locator("#chat-chat").get_by_label("Edit").first.click()
    wait_for(page, lambda: page.locator("#chat-chat textarea").count() > 0)
    assert page.locator("#chat-chat textarea").first.input_value() == "one\n    two"


def test_after_send_the_cursor_is_in_the_box_again(visit: Visit) -> None:
    page = visit()
    say(page, "One")
    page.fill("#message textarea", "Hello")
    button(page, "Send").click()
    page.locator("#chat-chat .bot.message").nth(1).wait_for()
    wait_until_pressable(page, "Send")
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    page.keyboard.type("And then?")
    assert page.input_value("#message textarea") == "And then?"
