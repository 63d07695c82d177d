"""Training as a person sees it: a real run is started, watched by two, paused and chatted with."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.hands import button, fill, open_tab, told

pytestmark = pytest.mark.browser
STORY = "The cat sat on the mat. The dog ran after the cat, and the cat ran up a tree. "
SMALL = """vocab_size = 300
context = 64
layers = 1
width = 32
batch_tokens = 256
steps = 90000
evaluations = 9000"""

FORECAST = re.compile(
    r"^0\.\d million parameters\. About \d+\.\d GB of memory of \d+\.\d GB\. "
    r"90,000 steps in about \d.*\. The text is read [\d.e+]+ times\."
)


@pytest.mark.parametrize("width", [1280, pytest.param(390, marks=pytest.mark.long)])
def test_a_run_is_started_watched_by_two_paused_and_chatted_with(
    visit: Callable[..., Any], served: Any, width: int
) -> None:
    page, name = open_tab(visit(width=width), "Training"), f"cats-{width}"
    button(page, "Start").click()
    told(page, "#new-run-status", "a name has letters")
    fill(page, "#run-name", name)
    button(page, "Start").click()
    told(page, "#new-run-status", "No text to train on")
    fill(page, "#run-name", "old")
    button(page, "Start").click()
    told(page, "#new-run-status", "There is already a checkpoint 'old'")
    fill(page, "#run-name", name)
    fill(page, "#pasted", STORY * 60)
    fill(page, "#minutes", "30")
    page.get_by_role("button", name="More settings").click()
    fill(page, "#more", "dropuot = 1")
    button(page, "Start").click()
    told(page, "#new-run-status", "Unknown setting 'dropuot'")
    assert page.locator("#pasted textarea").input_value() == "", "the text is kept on the server"
    fill(page, "#more", SMALL)
    button(page, "Forecast").click()
    told(page, "#new-run-status", FORECAST, 120)
    button(page, "Start").click()
    told(page, "#new-run-status", f"{name} trains now", 120)

    phone = open_tab(visit(width=390), "Training")
    for viewer in (page, phone):
        viewer.locator("#run-view .run-state", has_text="Training").wait_for(timeout=120_000)
        viewer.locator("#run-view polyline").first.wait_for(timeout=60_000)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    told(page, "#run-view", "Validation loss", 60)
    told(page, "#run-view", "What it writes")
    assert page.locator("#run-view pre").first.inner_text().strip(), "a sample"
    button(page, "Start").click()
    told(page, "#new-run-status", f"There is already a checkpoint '{name}'")
    fill(page, "#run-name", "dogs")
    button(page, "Start").click()
    told(page, "#new-run-status", "one run at a time")

    button(phone, "Pause").click()
    for viewer in (phone, page):
        told(viewer, "#run-view", "paused after step", 60)
    button(page, "Chat with it").click()
    page.locator("#message textarea").wait_for(timeout=60_000)
    assert page.locator("#model input").input_value() == name
    fill(page, "#message", "The cat")
    button(page, "Send").click()
    page.locator("#chat-chat .bot.message").first.wait_for(timeout=30_000)
    open_tab(page, "Training")
    button(page, "Back to unnamed").click()
    told(page, "#run-status", "unnamed answers on this page now")


def test_a_report_is_read_and_cannot_act_as_the_page(visit: Callable[..., Any]) -> None:
    page = open_tab(visit(), "Training")
    page.locator("#run input").click()
    page.get_by_role("option", name="old · Finished").click()
    with page.expect_popup() as opening:
        page.locator("#run-view a", has_text="Report").click()
    report = opening.value
    report.get_by_text("The report").wait_for()
    assert report.title() != "x", "no script runs in it"


def test_a_hidden_tab_asks_for_nothing(visit: Callable[..., Any]) -> None:
    page = visit()
    page.clock.install()
    page.reload()
    page.wait_for_selector("#send:not([disabled])")
    open_tab(page, "Training")
    with page.expect_request("**/runs/version"):
        page.clock.run_for(4500)
    open_tab(page, "Chat")
    page.wait_for_timeout(300)
    asked = list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(4500)
    page.wait_for_timeout(300)
    assert not [url for url in asked if "runs/version" in url or "queue/join" in url]
