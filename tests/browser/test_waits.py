"""What a person is told while nothing can be written yet: a place in the queue, a prompt that is
read."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lmapps.decoding import Decoding
from lmapps.discovery import discover
from tests.browser.hands import button, choose, fill, open_tab, shown, told

pytestmark = pytest.mark.browser
DESK = pytest.mark.parametrize("width", [1280, pytest.param(390, marks=pytest.mark.long)])
"""A phone in the long tier."""
READING = re.compile(r"Reading: 8 of \d+ tokens\.")
LONG = "The cat sat on the mat. The dog ran after the cat."


@pytest.fixture(scope="module")
def served(serve: Callable[..., Any]) -> Iterator[Any]:
    """One reply at a time."""
    with serve(discover(), 0.0, slots=1) as running:
        yield running


@pytest.fixture
def go_on(served: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Eight tokens of a prompt are read; the rest only once this is set."""
    slots, go_on = served.engine._scheduler.slots, threading.Event()
    read = slots.prefill

    def held(request: Any, most: int) -> Any:
        assert request.prefilled == 0 or go_on.wait(60)
        return read(request, most)

    slots.prefixes.clear()
    monkeypatch.setattr("lmapps.engine.scheduler.PREFILL_TOKENS", 8)
    monkeypatch.setattr(slots, "prefill", held)
    yield go_on
    go_on.set()


def waiting(number: int) -> str:
    return f"Waiting: number {number} in the queue."


@contextmanager
def slot_taken(served: Any) -> Iterator[None]:
    """By somebody else, for a minute at most."""
    engine = served.engine
    served.seconds_per_step = 0.5
    other = engine.submit(engine.read("x"), Decoding(max_new_tokens=120), lambda delta: None)
    try:
        yield
    finally:
        other.cancel()
        served.seconds_per_step = 0.0


@DESK
def test_a_chat_tells_the_place_in_the_queue_and_how_much_is_read(
    visit: Callable[..., Any], served: Any, go_on: threading.Event, width: int
) -> None:
    page = visit(width=width)
    fill(page, "#message", LONG)
    with slot_taken(served):
        button(page, "Send").click()
        told(page, "body", waiting(1))
    told(page, "body", READING)
    assert not page.locator("#chat-chat .bot.message").count()
    go_on.set()
    page.locator("#chat-chat .bot.message").first.wait_for()
    page.get_by_text(READING).first.wait_for(state="hidden")


@DESK
def test_compare_tells_of_each_side_whether_it_waits_or_is_read(
    visit: Callable[..., Any], served: Any, go_on: threading.Event, width: int
) -> None:
    page = open_tab(visit(width=width), "Compare")
    fill(page, "#compare-message", LONG)
    choose(page, "#way-1", "Creative")
    sides = "#took-0, #took-1"
    with slot_taken(served):
        button(page, "Compare").click()
        told(page, sides, waiting(1))
        told(page, sides, waiting(2))
    told(page, sides, READING)
    told(page, sides, waiting(1))
    go_on.set()
    button(page, "None is better").wait_for()
    for number in range(2):
        assert shown(page, f"#compared-{number}")
        told(page, f"#took-{number}", "first token after")
