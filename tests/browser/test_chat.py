"""Conversations as a person keeps them, in a real browser: lists, versions, restarts, tabs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmapps.discovery import discover
from lmapps.server.store.store import new_turn
from tests.browser.hands import button, device, fill, seen, unfold

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
BOTH = pytest.mark.parametrize("page", [1280, 390], indirect=True)
"""Also a phone in the short tier."""
DESK = pytest.mark.parametrize("width", [1280, pytest.param(390, marks=pytest.mark.long)])
"""A phone in the long tier."""


@pytest.fixture(params=[1280, pytest.param(390, marks=pytest.mark.long)])
def page(browser: Any, served: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A fresh visitor at a desk, or with a phone."""
    context = browser.new_context(**device(request.param))
    yield opened(context.new_page(), served.url)
    context.close()
    served.wait_until_idle()


def opened(page: Any, url: str) -> Any:
    page.goto(url)
    page.wait_for_selector("#send:not([disabled])")
    return page


def said(page: Any) -> list[str]:
    return [
        text.strip()
        for text in page.locator(
            "#chat-chat .user.message, #chat-chat .bot.message"
        ).all_inner_texts()
    ]


def listed(page: Any) -> list[str]:
    return [text.strip() for text in page.locator("#conversations label").all_inner_texts()]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def unfold_list(page: Any) -> None:
    """On a phone it is folded away above the chat."""
    if not seen(page, "#search").count():
        button(page, "Conversations").click()


def choose_from_list(page: Any, title: str) -> None:
    unfold_list(page)
    seen(page, "#conversations label").filter(has_text=title).click()
    if page.viewport_size["width"] < 720:
        wait_for(page, lambda: not seen(page, "#conversations").count())  # folded away again


def send(page: Any, text: str) -> None:
    """Send a message and wait for its reply to end."""
    page.fill("#message textarea", text)
    button(page, "Send").click()
    page.get_by_role("button", name="Stop", exact=True).locator("visible=true").wait_for()
    wait_until_ended(page, text)


def wait_until_ended(page: Any, text: str) -> None:
    """Until the last message is this one, has its reply, and another one can be sent."""
    page.wait_for_function(
        """text => {
            const [users, bots] = ['user', 'bot'].map(
                who => document.querySelectorAll(`#chat-chat .${who}.message`));
            const send = [...document.querySelectorAll('button')].find(
                b => b.offsetParent && b.innerText.trim() === 'Send');
            return users.length && users[users.length - 1].innerText.trim() === text
                && bots.length === users.length && send && !send.disabled;
        }""",
        arg=text,
        timeout=30_000,
    )


def wait_for(page: Any, check: Callable[[], bool]) -> None:
    for _ in range(200):
        if check():
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"said: {said(page)}, listed: {listed(page)}")


def held_back(page: Any, words: str) -> list[Any]:
    """The first request that holds these words, once it is made: it goes on by `continue_`."""
    held = list[Any]()

    def hold(route: Any) -> None:
        if words in (route.request.post_data or "") and not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/queue/join*", hold)
    return held


@BOTH
def test_what_is_written_before_the_server_has_answered_stays_in_the_box(page: Any) -> None:
    held = held_back(page, "The first one")
    fill(page, "#message", "The first one")
    button(page, "Send").click()
    wait_for(page, lambda: bool(held))
    fill(page, "#message", "And on")
    held[0].continue_()
    wait_for(page, lambda: len(said(page)) == 2)
    page.wait_for_selector("#send:not([disabled])")
    assert page.locator("#message textarea").input_value() == "And on"
    button(page, "Send").click()
    wait_for(page, lambda: len(said(page)) == 4 and said(page)[2] == "And on")
    page.wait_for_selector("#send:not([disabled])")
    assert page.locator("#message textarea").input_value() == ""


@BOTH
def test_conversations_are_listed_searched_and_opened_again(page: Any) -> None:
    unfold_list(page)
    page.get_by_text("What you talk about is kept in this list.").wait_for()
    send(page, "The first one")
    first = said(page)
    button(page, "New chat").click()
    wait_for(page, lambda: said(page) == [])
    send(page, "The second one")
    assert listed(page) == ["The second one", "The first one"]
    choose_from_list(page, "The first one")
    wait_for(page, lambda: said(page) == first)
    unfold_list(page)
    fill(page, "#search", "second")
    wait_for(page, lambda: listed(page) == ["The second one"])
    send(page, "One more")
    assert listed(page) == ["The second one"], "what stands in the box is what is listed"
    fill(page, "#search", "")
    wait_for(page, lambda: listed(page) == ["The first one", "The second one"])


@pytest.mark.parametrize("width", [1280, 390])
def test_every_version_is_kept_and_reached_again(visit: Callable[..., Any], width: int) -> None:
    page = visit(width=width)

    def press(button: str, shows: list[str]) -> None:
        page.locator(f"#version-{button}").click()
        wait_for(page, lambda: said(page) == shows)

    send(page, "one")
    first = said(page)
    button(page, "Retry").click()
    page.get_by_text("Version 2 of 2").wait_for()
    wait_until_ended(page, "one")
    again = said(page)
    page.locator("#chat-chat .user.message").first.hover()
    page.get_by_label("Edit").first.click()
    page.locator("#chat-chat textarea").first.fill("uno")
    page.get_by_label("Submit").first.click()
    page.get_by_text("Version 3 of 3").wait_for()
    wait_until_ended(page, "uno")
    edited = said(page)
    press("before", again)
    press("after", edited)
    press("before", again)
    press("before", first)
    button(page, "Undo").click()
    wait_for(page, lambda: said(page) == [])
    page.get_by_text("Version 4 of 4").wait_for()
    press("before", edited)
    page.get_by_text("Version 3 of 3").wait_for()


def test_a_chat_has_no_bin_that_empties_the_picture_alone(page: Any) -> None:
    send(page, "Keep me")
    bin = page.locator("#chat-chat").get_by_label("Clear", exact=True)
    assert bin.count() == 1, "Gradio draws none: page.css need not hide it"
    assert not bin.is_visible()


def test_a_long_list_is_shown_further_and_searched_as_a_whole(
    browser: Any, serve: Callable[..., Any]
) -> None:
    name = "0123456789abcdef" * 2

    def prepare(store: Any) -> None:
        for number in range(450):
            store.start(name, "chat", new_turn(None, "user", f"talk-{number}", "person"))

    def lists(count: int) -> None:
        wait_for(page, lambda: len(listed(page)) == count)

    with serve(discover(), 0.01, prepare=prepare) as served:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.add_init_script(f"localStorage.setItem('lmapps-visitor', '{name}')")
        page = opened(context.new_page(), served.url)
        lists(200)
        button(page, "Show more").click()
        lists(400)
        button(page, "Show more").click()
        lists(450)
        assert listed(page)[-1] == "talk-0" and not button(page, "Show more").count()
        page.locator("#conversations label").last.click()
        wait_for(page, lambda: said(page) == ["talk-0"])
        button(page, "New chat").click()
        wait_for(page, lambda: said(page) == [])
        send(page, "one more")
        lists(451)
        page.set_viewport_size({"width": 390, "height": 844})
        opened(page, served.url)
        button(page, "Conversations").click()
        lists(200)
        button(page, "Show more").click()
        lists(400)
        page.fill("#search textarea, #search input", "talk-0")
        wait_for(page, lambda: listed(page) == ["talk-0"])
        context.close()


def test_a_new_chat_in_the_middle_of_a_reply_stops_it_and_keeps_what_was_written(
    page: Any, served: Any
) -> None:
    page.fill("#message textarea", "Tell me everything")
    button(page, "Send").click()
    page.wait_for_selector("#chat-chat .bot.message")
    button(page, "New chat").click()
    served.wait_until_idle()
    wait_for(page, lambda: said(page) == [])
    choose_from_list(page, "Tell me everything")
    wait_for(page, lambda: len(said(page)) == 2 and said(page)[1] != "")


def test_what_is_done_beside_a_reply_leaves_stop_where_it_is(
    page: Any, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "seconds_per_step", 0.1)
    page.fill("#message textarea", "Tell me slowly")
    button(page, "Send").click()
    page.wait_for_selector("#chat-chat .bot.message")
    unfold_list(page)
    for words, found in (("nowhere", []), ("slowly", ["Tell me slowly"])):
        fill(page, "#search", words)
        wait_for(page, lambda found=found: listed(page) == found)
    assert served.engine.running, "the reply is still under way"
    button(page, "Stop").click(timeout=2000)
    served.wait_until_idle()
    page.get_by_text("Stopped.").locator("visible=true").wait_for()


@BOTH
def test_a_search_that_comes_late_takes_no_message_to_another_conversation(page: Any) -> None:
    """It was asked for before the conversation began, and is answered in it."""
    held = held_back(page, "nowhere")
    unfold_list(page)
    fill(page, "#search", "nowhere")
    wait_for(page, lambda: bool(held))
    send(page, "One")
    held[0].continue_()
    page.get_by_text("No conversation has these words.").locator("visible=true").wait_for()
    page.wait_for_timeout(300)
    send(page, "Two")
    assert [text for text in said(page) if text in ("One", "Two")] == ["One", "Two"]
    fill(page, "#search", "")
    wait_for(page, lambda: listed(page) == ["One"])


@BOTH
def test_of_two_conversations_chosen_quickly_the_second_is_shown(page: Any) -> None:
    for text in ("One", "Two", "Three"):
        send(page, text)
        button(page, "New chat").click()
        wait_for(page, lambda: said(page) == [])
    held = held_back(page, "fn_index")
    choose_from_list(page, "One")
    wait_for(page, lambda: bool(held))
    choose_from_list(page, "Two")
    page.wait_for_timeout(300)
    held[0].continue_()
    wait_for(page, lambda: said(page)[:1] == ["Two"])
    send(page, "More")
    assert said(page)[0] == "Two"


@BOTH
def test_deleting_can_be_taken_back_and_a_title_is_changed(page: Any) -> None:
    send(page, "To be deleted")
    unfold_list(page)
    unfold(page, "This conversation")
    page.locator("#title textarea, #title input").fill("<b onclick='x'>My title</b>")
    button(page, "Rename").click()
    wait_for(page, lambda: listed(page) == ["<b onclick='x'>My title</b>"])
    assert page.locator("#conversations b").count() == 0, "a title is text, not markup"
    button(page, "Delete").click()
    wait_for(page, lambda: listed(page) == [] and said(page) == [])
    button(page, "Undo delete").click()
    wait_for(page, lambda: len(listed(page)) == 1 and len(said(page)) == 2)


@BOTH
def test_a_conversation_goes_out_as_a_file_and_comes_back(page: Any, tmp_path: Path) -> None:
    send(page, "Take me along")
    before = said(page)
    unfold_list(page)
    unfold(page, "This conversation")
    button(page, "Export").click()
    links = page.locator("#exported a")
    links.first.wait_for()
    files = {}
    for number in range(2):
        with page.expect_download() as download:
            links.nth(number).click()
        target = tmp_path / download.value.suggested_filename
        download.value.save_as(target)
        files[target.suffix] = target
    assert "**You**\n\nTake me along" in files[".md"].read_text()
    assert json.loads(files[".json"].read_text())["lmapps"] == "conversation"
    button(page, "New chat").click()
    wait_for(page, lambda: said(page) == [])
    unfold_list(page)
    with page.expect_file_chooser() as chooser:
        button(page, "Import").click()
    chooser.value.set_files(files[".json"])
    wait_for(page, lambda: said(page) == before and len(listed(page)) == 2)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    bad = tmp_path / "bad.json"
    bad.write_text("no JSON")
    page.locator("input[type=file][accept='.json']").set_input_files(bad)
    page.get_by_text("bad.json is not JSON").wait_for()


def test_a_rating_is_still_there_after_a_reload(page: Any, served: Any) -> None:
    send(page, "Rate me")
    page.locator("#chat-chat").get_by_label("Like", exact=True).first.click()
    page.get_by_text("Your rating is kept.").wait_for()
    opened(page, served.url)
    page.wait_for_selector("#chat-chat .bot.message")
    page.locator("#chat-chat").get_by_label("Liked", exact=True).first.wait_for()


@DESK
def test_two_tabs_on_one_conversation_overwrite_nothing(
    browser: Any, served: Any, width: int
) -> None:
    context = browser.new_context(**device(width))
    one = opened(context.new_page(), served.url)
    send(one, "Begin")
    two = opened(context.new_page(), served.url)
    wait_for(two, lambda: said(two) == said(one))
    send(two, "From the second tab")
    send(one, "From the first tab")
    assert "From the second tab" not in said(one)
    one.get_by_text("Version 2 of 2").wait_for()
    one.locator("#version-before").click()
    wait_for(one, lambda: "From the second tab" in said(one))
    context.close()
    served.wait_until_idle()


@DESK
def test_a_conversation_survives_the_server_and_its_visitor_comes_back_to_it(
    browser: Any, serve: Callable[..., Any], tmp_path: Path, width: int
) -> None:
    port, database = free_port(), f"sqlite:///{tmp_path / 'kept.db'}"
    context = browser.new_context(**device(width))
    page = context.new_page()
    # It would begin anew when it sees that another process answers: here it has not seen it yet.
    page.route("**/plugins/version*", lambda route: route.abort())
    with serve(discover(), 0.0, database, port) as served:
        opened(page, served.url)
        send(page, "Remember me")
        before = said(page)
    with serve(discover(), 0.0, database, port) as served:  # the page that is open goes on
        send(page, "Are you still there?")
        assert said(page)[:2] == before and len(said(page)) == 4
        now = said(page)
        opened(page, served.url)
        wait_for(page, lambda: said(page) == now)
        stranger = opened(browser.new_page(), served.url)
        assert listed(stranger) == [] and said(stranger) == []
        stranger.close()
    context.close()


SERVER = """
import sys, time
from lmapps.discovery import discover
from tests.conftest import _served
with _served(discover(), 0.05, sys.argv[1], int(sys.argv[2])):
    time.sleep(600)
"""


@pytest.mark.long
@pytest.mark.parametrize("width", [1280, 390])
def test_what_was_written_is_there_after_the_server_was_killed_in_the_middle_of_it(
    browser: Any, serve: Callable[..., Any], tmp_path: Path, width: int
) -> None:
    port, database = free_port(), f"sqlite:///{tmp_path / 'kept.db'}"
    context = browser.new_context(**device(width))
    page = context.new_page()
    command = [sys.executable, "-c", SERVER, database, str(port)]
    with subprocess.Popen(command, cwd=ROOT) as server:
        wait_for(page, lambda: answers(port))
        opened(page, f"http://127.0.0.1:{port}")
        page.fill("#message textarea", "Tell me everything")
        button(page, "Send").click()
        wait_for(page, lambda: len(said(page)) == 2 and len(said(page)[1]) > 30)
        written = said(page)[1]
        page.wait_for_timeout(1500)  # it is saved every half a second
        assert button(page, "Send").is_disabled(), "it is still being written"
        server.kill()
    with serve(discover(), 0.0, database, port):  # the page finds it by itself
        page.wait_for_selector("#send:not([disabled])")
        wait_for(page, lambda: len(said(page)) == 2 and said(page)[1].startswith(written[:20]))
        assert len(said(page)[1]) >= len(written)
        send(page, "And then?")
        assert len(said(page)) == 4 and listed(page) == ["Tell me everything"]
    context.close()


END = "[...document.querySelectorAll('#chat-chat .bubble-wrap')].at(-1)"


def test_a_reply_is_followed_by_whoever_looks_at_its_end_and_by_nobody_else(
    page: Any, served: Any
) -> None:
    place, from_end = (
        f"{END}.scrollTop",
        f"{END}.scrollHeight - {END}.scrollTop - {END}.clientHeight",
    )
    page.set_viewport_size({"width": 390, "height": 400})
    for text in ("One", "Two"):
        send(page, text)
    assert page.evaluate(place) > 100 and page.evaluate(from_end) < 8

    def grows(by: int) -> None:
        length = f"{END}.innerText.length"
        page.wait_for_function(f"was => {length} > was + {by}", arg=page.evaluate(length))

    served.seconds_per_step = 0.1
    try:
        page.fill("#message textarea", "Tell me everything")
        button(page, "Send").click()
        page.locator("#chat-chat .bot.message").nth(2).wait_for()
        grows(15)
        assert page.evaluate(from_end) < 8, "whoever looks at the end sees the end"
        page.locator("#chat-chat .bubble-wrap").hover()
        page.mouse.wheel(0, -40)
        page.wait_for_function(f"was => {place} < was", arg=page.evaluate(place))
        page.wait_for_timeout(100)
        read = page.evaluate(place)
        grows(15)
        assert page.evaluate(place) == read, "whoever reads above stays there"
        page.mouse.wheel(0, 10_000)
        page.wait_for_function(f"{from_end} < 8")
        grows(15)
        page.wait_for_function(f"{from_end} < 8")
    finally:
        served.seconds_per_step = 0.01
    wait_until_ended(page, "Tell me everything")


@pytest.mark.long
@pytest.mark.parametrize("width", [1280, 390])
def test_a_chat_of_500_turns_opens_with_its_end_and_sends_only_what_is_new(
    browser: Any, serve: Callable[..., Any], width: int
) -> None:
    name, kept = "0123456789abcdef" * 2, dict[str, Any]()

    def prepare(store: Any) -> None:
        kept["conversation"], parent = store.begin(name, "chat", "A long one"), None
        for number in range(250):
            asked = store.add(name, kept["conversation"], parent, "user", f"Ask {number}", "person")
            reply = store.add(name, kept["conversation"], asked.id, "assistant", "", "model")
            store.grow(reply.id, f"Answer {number}. " + "The river goes on. " * 20, "stop")
            parent = reply.id

    with serve(discover(), 0.01, prepare=prepare) as served:
        context = browser.new_context(**device(width))
        place = json.dumps(json.dumps(kept))
        context.add_init_script(
            f"localStorage.setItem('lmapps-visitor', '{name}');"
            f"localStorage.getItem('lmapps-place-chat') ||"
            f" localStorage.setItem('lmapps-place-chat', JSON.stringify({place}));"
        )
        page = opened(context.new_page(), served.url)
        wait_for(page, lambda: "Ask 249" in said(page))
        assert 10 < len(said(page)) < 100, "the rest is shown when it is asked for"
        from_end = f"{END}.scrollHeight - {END}.scrollTop - {END}.clientHeight"
        page.wait_for_function(f"{from_end} < 8")
        told = list[int]()
        wire = context.new_cdp_session(page)
        wire.send("Network.enable")
        wire.on("Network.dataReceived", lambda piece: told.append(piece["dataLength"]))
        shown = len(said(page))
        page.fill("#message textarea", "And then?")
        page.press("#message textarea", "Enter")
        page.wait_for_function(
            "() => [...document.querySelectorAll('#chat-chat .user.message')]"
            ".at(-1).innerText.trim() === 'And then?'"
        )
        page.locator("#send:not([disabled])").wait_for()
        whole = sum(len(text) for text in said(page))
        assert len(told) > 8 and sum(told) < 8 * whole, (len(told), sum(told), whole)
        assert sorted(told)[len(told) // 2] < 1000, "an update says what is new"
        button(page, "Show earlier messages").click()
        wait_for(page, lambda: len(said(page)) > shown + 10)
        context.close()
