"""Compare as a person uses it: models or presets side by side, any application, Stop, a vote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sql

from lmapps.server.store.tables import VOTES
from tests.browser.hands import (
    button,
    choose,
    fill,
    open_tab,
    seen,
    serious,
    shown,
    told,
    unfold,
    wait_for,
    wait_until_pressable,
)

pytestmark = pytest.mark.browser
DESK = pytest.mark.parametrize("width", [1280, pytest.param(390, marks=pytest.mark.long)])
"""A phone in the long tier."""


@pytest.mark.parametrize("width", [1280, 390])
def test_two_models_answer_side_by_side_and_a_blind_vote_is_kept(
    visit: Callable[..., Any], width: int
) -> None:
    page = open_tab(visit(width=width), "Compare")
    page.locator("#compare-message textarea").wait_for()
    button(page, "Compare").click()
    told(page, "#compare-told", "The message is empty")
    page.locator("#compare-blind input").check()
    fill(page, "#compare-message", "The cat")
    button(page, "Compare").click()
    button(page, "A is better").wait_for(timeout=60_000)
    for number in range(2):
        wait_for(page, lambda side=f"#compared-{number}": bool(shown(page, side)))
        told(page, f"#took-{number}", "first token after")
    assert page.locator("#head-0").inner_text().strip() == "A", "nobody knows which is which"
    first, second = (page.locator(f"#compared-{n}").bounding_box() for n in range(2))
    assert (first["y"] == second["y"]) == (width > 720), "side by side, or one below the other"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    button(page, "A is better").click()
    told(page, "#compare-told", "Your vote is kept")
    assert not serious(page)
    heads = {page.locator(f"#head-{number}").inner_text().strip() for number in range(2)}
    assert "unnamed" in heads and len(heads) == 2, "the names are shown now"
    rows = dict(row.split("\t", 1) for row in page.locator("#votes tr").all_inner_texts()[1:])
    votes = {name: [int(cell) for cell in rows[name].split("\t")[:3]] for name in heads}
    assert sum(won for won, _, _ in votes.values()) >= 1, "of this and of other tests"
    assert all(won + tied <= shown for won, tied, shown in votes.values())
    assert not button(page, "A is better").count(), "one vote for a comparison"


@DESK
def test_three_sides_answer_at_once_and_the_sum_of_votes_is_there_for_the_next_visitor(
    visit: Callable[..., Any], width: int
) -> None:
    page = open_tab(visit(width=width), "Compare")
    told(page, "#compare-told", "answer at the same time")
    fill(page, "#compare-message", "The cat")
    choose(page, "#side-0", "gru")
    choose(page, "#side-1", "unnamed")
    choose(page, "#side-2", "unnamed")
    button(page, "Compare").click()
    told(page, "#compare-told", "Two sides are the same")
    choose(page, "#way-2", "Creative")
    button(page, "Compare").click()
    button(page, "unnamed, creative is better").wait_for(timeout=60_000)
    places = [page.locator(f"#compared-{number}").bounding_box() for number in range(3)]
    rows, columns = ({place[at] for place in places} for at in ("y", "x"))
    assert (len(rows), len(columns)) == ((1, 3) if width > 720 else (3, 1))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for number in range(3):
        assert shown(page, f"#compared-{number}")
        told(page, f"#took-{number}", "first token after")
    button(page, "unnamed, creative is better").click()
    told(page, "#votes", "unnamed, creative")
    visitor = open_tab(visit(width=width), "Compare")
    told(visitor, "#votes", "unnamed, creative")


@DESK
def test_a_form_is_compared_with_two_presets_and_stop_ends_both_sides(
    visit: Callable[..., Any], served: Any, width: int
) -> None:
    page = open_tab(visit(width=width), "Compare")
    choose(page, "#compare-plugin", "Code")
    fill(page, "#compare-instruction", "Add two numbers.")
    for number, way in enumerate(("Precise", "Creative")):
        choose(page, f"#side-{number}", "unnamed")
        choose(page, f"#way-{number}", way)
    choose(page, "#side-2", "-")
    served.seconds_per_step = 0.1
    try:
        button(page, "Compare").click()
        for number in range(2):
            seen(page, f"#compared-{number} .cm-line").first.wait_for()
        if width > 720:
            page.keyboard.press("Escape")
        else:
            button(page, "Stop").click()
        told(page, "#compare-told", "Stopped.")
        served.wait_until_idle()
    finally:
        served.seconds_per_step = 0.005
    places = [f"#compared-{number} .cm-content" for number in range(2)]
    said = [shown(page, place) for place in places]
    page.wait_for_timeout(300)
    assert said == [shown(page, place) for place in places]
    assert not button(page, "None is better").count(), "half a reply is not voted on"
    button(page, "Compare").click()
    wait_until_pressable(page, "None is better")
    button(page, "None is better").click()
    told(page, "#compare-told", "Your vote is kept")
    assert seen(page, "#votes tr").count() == 3


@DESK
def test_a_persons_own_preset_is_compared_and_the_vote_keeps_what_was_replied(
    visit: Callable[..., Any], served: Any, width: int
) -> None:
    page = visit(width=width)
    unfold(page, "Decoding")
    page.get_by_label("number input for Temperature").locator("visible=true").fill("1.5")
    page.keyboard.press("Tab")
    fill(page, "#preset-chat-decoding", "Wild")
    page.keyboard.press("Enter")
    button(page, "Save").click()
    page.get_by_text("Saved as Wild").wait_for()
    open_tab(page, "Compare")
    fill(page, "#compare-message", "The cat")
    for number in range(2):
        choose(page, f"#side-{number}", "unnamed")
    choose(page, "#way-1", "Wild")
    button(page, "Compare").click()
    better = "unnamed, temperature = 1.5 is better"
    button(page, better).wait_for(timeout=60_000)
    button(page, better).click()
    told(page, "#votes", "unnamed, temperature = 1.5")
    with served.store.database.reading() as connection:
        *_, kept = connection.execute(
            sql.select(VOTES.c.request, VOTES.c.replies)
            .where(VOTES.c.winner == "unnamed, temperature = 1.5")
            .order_by(VOTES.c.created)
        )
    assert kept.request["messages"] == [{"role": "user", "content": "The cat"}]
    assert len(kept.replies) == 2 and all(kept.replies)
    stranger = open_tab(visit(), "Compare")
    seen(stranger, "#way-1 input").click()
    stranger.get_by_role("option", name="Creative").locator("visible=true").wait_for()
    assert not stranger.get_by_role("option", name="Wild").count()
