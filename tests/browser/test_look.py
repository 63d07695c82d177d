"""The page for eyes, keys and screen readers: schemes, languages, phones, axe-core."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.hands import (
    button,
    fill,
    open_tab,
    seen,
    serious,
    shown,
    tabs,
    wait_for,
    wait_until_pressable,
)

pytestmark = pytest.mark.browser
DESK = pytest.mark.parametrize("width", [1280, pytest.param(390, marks=pytest.mark.long)])
"""A phone in the long tier."""

FOCUSED = """() => {
    const at = document.activeElement, style = getComputedStyle(at);
    const name = at.getAttribute("aria-label") || at.innerText || at.placeholder || at.id;
    return [name.trim(), style.outlineStyle !== "none" || style.boxShadow !== "none"];
}"""


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "light"),
        (390, "dark"),
        pytest.param(1280, "dark", marks=pytest.mark.long),
        pytest.param(390, "light", marks=pytest.mark.long),
    ],
)
def test_axe_finds_nothing_serious_on_any_tab(
    visit: Callable[..., Any], width: int, scheme: str
) -> None:
    page = visit(width=width, scheme=scheme)
    names = tabs(page)
    assert {"Compare", "Models", "Training", "Plugins"} < set(names)
    found = list[str]()
    for name in names:
        open_tab(page, name)
        if name == "Compare":
            page.locator("#compare-message").wait_for()
        page.wait_for_timeout(300)  # what is faint while it comes
        found += [f"{name}: {fault}" for fault in serious(page)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_axe_finds_nothing_serious_where_there_is_something_to_see(
    visit: Callable[..., Any], width: int, scheme: str
) -> None:
    """A chat with versions of a reply, a form with one, and all that unfolds beside them."""
    page, found = visit(width=width, scheme=scheme), list[str]()
    fill(page, "#message", "Where is the cat?")
    button(page, "Send").click()
    page.locator("#chat-chat .bot.message").wait_for()
    wait_until_pressable(page, "Retry")
    button(page, "Retry").click()
    seen(page, "#version").get_by_text("2 of 2").wait_for()
    wait_until_pressable(page, "Send")
    unfold_all(page)
    seen(page, "#score").click()
    seen(page, ".strip button").first.click()
    seen(page, ".detail .row").first.wait_for()
    found += [f"Chat: {fault}" for fault in serious(page)]
    open_tab(page, "News")
    fill(page, "#field-headline", "Rain falls")
    button(page, "Write").click()
    wait_for(page, lambda: shown(page, "#reply-news") != "")
    wait_until_pressable(page, "Write")
    unfold_all(page)
    found += [f"News: {fault}" for fault in serious(page)]
    assert not found, "\n".join(found)


def unfold_all(page: Any) -> None:
    folded = seen(page, "button.label-wrap:not(.open)")
    while folded.count():
        folded.first.click()
        page.wait_for_timeout(300)


@DESK
def test_the_scheme_is_the_systems_until_another_is_chosen_and_that_is_remembered(
    visit: Callable[..., Any], width: int
) -> None:
    page = visit(width=width, scheme="dark")
    is_dark = "document.body.classList.contains('dark')"
    assert page.evaluate(is_dark)
    button(page, "Light / dark").click()
    assert not page.evaluate(is_dark)
    page.reload()
    page.wait_for_selector("#send:not([disabled])")
    assert not page.evaluate(is_dark)
    assert page.evaluate("document.documentElement.dataset.scheme") == "light"


@DESK
def test_a_chinese_browser_is_spoken_to_in_chinese_until_english_is_chosen(
    visit: Callable[..., Any], width: int
) -> None:
    page = visit(width=width, language="zh-CN")
    button(page, "发送").wait_for()
    assert page.get_attribute("#message textarea", "placeholder") == "输入消息"
    assert page.get_attribute("#language", "aria-label") == "语言"
    assert "百万参数" in page.locator("#about", has_text="百万").inner_text()
    button(page, "重试").wait_for()
    button(page, "发送").click()
    page.get_by_text("请先输入消息。").wait_for()
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    page.select_option("#language", "en")
    button(page, "Send").wait_for()
    button(page, "Send").click()
    page.get_by_text("Write a message first.").wait_for()
    assert page.input_value("#language") == "en"


def test_enter_sends_shift_enter_begins_a_line_and_escape_stops(
    visit: Callable[..., Any], served: Any
) -> None:
    page = visit()
    page.focus("#message textarea")
    page.keyboard.type("Tell me")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("everything")
    assert page.input_value("#message textarea") == "Tell me\neverything"
    served.seconds_per_step = 0.1
    try:
        page.keyboard.press("Enter")
        page.locator("#chat-chat .bot.message").first.wait_for()
        page.keyboard.press("Escape")
        page.get_by_text("Stopped.").locator("visible=true").wait_for()
    finally:
        served.seconds_per_step = 0.01
    assert page.evaluate(FOCUSED)[0] == "Write a message", "the box keeps the focus"


def test_everything_is_reached_by_tab_in_the_order_of_the_page_with_a_visible_focus(
    visit: Callable[..., Any],
) -> None:
    page = visit()
    page.evaluate("document.activeElement.blur()")
    order = list[str]()
    for _ in range(40):
        page.keyboard.press("Tab")
        name, is_seen = page.evaluate(FOCUSED)
        assert is_seen, f"no focus is seen on {name!r}"
        order.append(name)
        if name == "Send":
            break
    wanted = ["Language", "Light / dark", "Chat", "New chat", "Search", "Write a message", "Send"]
    places = [next((n for n, at in enumerate(order) if re.match(name, at)), -1) for name in wanted]
    assert -1 not in places and places == sorted(places), order


def test_what_changes_by_itself_is_told_to_a_screen_reader(visit: Callable[..., Any]) -> None:
    page = visit()
    page.locator(".status[role=status]").first.wait_for(state="attached")
    page.locator("#chat-chat [role=log][aria-live]").wait_for()
    open_tab(page, "News")
    page.locator("#reply-news[aria-live]").wait_for()
    assert page.locator("main").count() == 1 and page.locator("h1").count() == 1


def test_every_tab_fits_a_phone_and_is_within_reach(visit: Callable[..., Any]) -> None:
    page = visit(width=390)
    for name in tabs(page):
        open_tab(page, name)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        outside = page.evaluate(
            """[...document.querySelectorAll('button, textarea, input, select, h1')].filter(e => {
                const box = e.getBoundingClientRect();
                return e.checkVisibility({visibilityProperty: true}) && e.tabIndex >= 0
                    && box.width && (box.left < 0 || box.right > 390);
            }).map(e => e.outerHTML.slice(0, 120))"""
        )
        assert not outside, name
        if name == "Plugins":  # one under the other: a table beyond the edge is cut off
            cells = page.locator("#plugins-page td")
            cells.last.wait_for()
            widths = cells.evaluate_all("all => all.map(e => e.offsetWidth)")
            assert 250 < min(widths) <= max(widths) <= 390


def test_the_page_has_its_own_name_and_icon(visit: Callable[..., Any], served: Any) -> None:
    page = visit()
    assert page.title() == "lmapps"
    icon = page.request.get(f"{served.url}/favicon.ico")
    assert icon.headers["content-type"].startswith("image/svg") and b"lmapps" in icon.body()
    assert "gradio" not in page.locator("head meta").evaluate_all(
        "all => all.map(e => e.content).join()"
    )
