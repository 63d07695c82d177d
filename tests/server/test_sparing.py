"""What an event of the page costs the server, and what is kept of a page that was closed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio.context import LocalContext

from lmapps.discovery import discover
from lmapps.server.accounts.users import Account
from lmapps.server.page.chat.dialogue import Dialogue
from lmapps.server.page.chat.saved import LISTED, MOST_SHOWN, SHOWN_TURNS, Place, place_from
from lmapps.server.page.chat.seen import Seen
from lmapps.server.page.document import KEPT, Document
from lmapps.server.page.sparing import CLOSED_PAGES, OpenPage, OpenPages, Page
from lmapps.server.page.visitor import Visitor
from lmapps.server.store.store import Store, new_turn
from lmapps.server.who import ACCOUNT

NAME = "0123456789abcdef" * 2


@pytest.fixture
def page() -> Page:
    with Page() as page:
        page.box, page.line, page.state = gr.Textbox(), gr.Markdown(), gr.State(0)
        outputs = [page.box, page.line, page.state]
        page.event = page.box.submit(lambda: {}, None, outputs)
    return page


def told(page: Any, predictions: Any, state: Any) -> list[Any]:
    (event,) = page.fns.values()
    return asyncio.run(page.postprocess_data(event, predictions, state))


def test_an_event_sends_what_it_tells_and_makes_nothing_else_anew(page: Any) -> None:
    state, skip = OpenPage(page), gr.skip()
    assert told(page, {page.box: "new"}, state) == ["new", skip, None]
    assert told(page, ["newer", skip, skip], state) == ["newer", skip, None]
    assert told(page, skip, state) == [skip, skip, None]
    assert state[page.line._id] is page.line and state[page.state._id] == 0
    box, line, _ = told(page, {page.line: gr.update(visible=False), page.state: 3}, state)
    assert box == skip and line == gr.update(visible=False)
    assert state[page.line._id] is page.line and state[page.state._id] == 3
    _, line, _ = told(page, {page.line: gr.update(value="  a", height=20)}, state)
    assert line["value"] == "a" and line["height"] == 20
    assert state[page.line._id].height == 20 and page.line.height is None, "another page's is"


def test_a_conversation_is_sent_as_gradio_sends_it(page: Any) -> None:
    said = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "  Hi\n\n- a"}]
    with Page() as talking:
        talk, line = gr.Chatbot(), gr.Markdown()
        line.change(lambda: {}, None, [talk, line])
    (event,) = talking.fns.values()
    state = OpenPage(talking)
    ours = asyncio.run(talking.postprocess_data(event, {talk: said}, state))
    theirs = asyncio.run(gr.Blocks.postprocess_data(talking, event, [said, "x"], state))
    assert ours[0] == theirs[0].model_dump() if hasattr(theirs[0], "model_dump") else theirs[0]


def test_what_was_written_is_shown_with_its_indentation(page: Any) -> None:
    """A program's, a list's within a list: else it means something else, and so does an edit."""
    written = "Like this:\n    if one:\n        two()"
    assert told(page, {page.line: written}, OpenPage(page))[1] == written
    with Page():
        dialogue = Dialogue(discover().get("chat"))
    turns = [new_turn(None, "user", written, "person")]
    for busy in (True, False):
        shown = dialogue.update(Seen(Place(), turns=turns, busy=busy))[dialogue.chatbot]
        (sent,) = dialogue.chatbot.postprocess(shown if busy else shown["value"]).root
        assert sent.content[0].text == written


def test_an_event_is_given_what_gradio_would_give_it_and_the_same_is_refused() -> None:
    with Page() as page:
        inputs = [gr.Textbox(), gr.State(7), gr.Slider(0, 9), gr.Dropdown(["a", "b"]), gr.Number()]
        inputs[0].submit(lambda *_: None, inputs, None)
    (event,) = page.fns.values()
    state = OpenPage(page)

    def given(values: list[Any], by: Any) -> list[Any]:
        return asyncio.run(by.preprocess_data(page, event, values, state))

    values = ["x", None, 3, "b", 2.5]
    assert given(values, Page) == given(values, gr.Blocks) == ["x", 7, 3, "b", 2.5]
    for by in (Page, gr.Blocks):
        with pytest.raises(gr.Error, match="not in the list of choices"):
            given(["x", None, 3, "c", 2.5], by)
    state[inputs[3]._id] = gr.Dropdown(["a", "b", "c"], render=False)
    assert given(["x", None, 3, "c", 2.5], Page)[3] == "c", "this page has more to choose from"


def test_of_a_page_nothing_is_kept_but_what_is_not_as_it_was_built(page: Any) -> None:
    state = OpenPage(page)
    told(page, {page.box: "new", page.line: gr.update(visible=False)}, state)
    assert not list(state.components)


def test_of_closed_pages_a_few_are_remembered_and_open_ones_all(page: Page) -> None:
    pages = OpenPages()
    pages.set_blocks(page)
    names = [f"page {number}" for number in range(3 * CLOSED_PAGES)]
    for name in names:
        pages[name].is_closed = name != "page 0"
    pages.delete_all_expired_state()
    kept = ["page 0", *names[-CLOSED_PAGES:]]
    assert list(pages.session_data) == kept and list(pages.time_last_used) == kept


def test_a_tab_says_itself_where_it_stands_but_not_whose_it_is() -> None:
    place = Place("ann", "a conversation", "a turn", 120, 600, "cats", True)
    where, extent = place.as_text(), place.extent()
    assert "ann" not in where + extent
    assert place_from(where, "bob", True, extent, "cats") == replace(place, owner="bob")


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "3", "null", '{"leaf": "x"}', '{"conversation": 3}', "[" * 10_000]
)
def test_a_tab_that_says_nonsense_stands_at_a_new_conversation(text: str | None) -> None:
    assert place_from(text, "ann") == place_from(None, "ann", False, text) == Place("ann")


@pytest.mark.parametrize(
    ("asked", "shown", "listed"),
    [("-5", SHOWN_TURNS, LISTED), ("1e99", MOST_SHOWN, MOST_SHOWN)],
)
def test_a_tab_shows_as_much_as_makes_sense(asked: str, shown: int, listed: int) -> None:
    extent = f'{{"shown": {asked}, "listed": {asked}}}'
    place = place_from('{"conversation": "c"}', "ann", False, extent)
    assert (place.shown, place.listed) == (shown, listed)


def test_a_browser_says_whose_it_is_by_its_name_and_with_accounts_says_nothing(
    tmp_path: Path,
) -> None:
    with Page():
        visitor = Visitor(Store(f"sqlite:///{tmp_path / 'test.db'}"))
    assert visitor.owner(NAME) == NAME
    assert visitor.owner(None) == visitor.owner("ann") == "", "it is still opening"
    account = Account("7", "ann", "user")
    scope = {ACCOUNT: account}
    token = LocalContext.request.set(SimpleNamespace(request=SimpleNamespace(scope=scope)))
    try:
        assert visitor.owner(NAME) == visitor.owner("") == account.owner != NAME
    finally:
        LocalContext.request.reset(token)


def test_the_document_is_made_once_for_each_name_it_is_asked_by() -> None:
    made = list[tuple[str, str]]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        made.append((scope["path"], str(dict(scope["headers"]).get(b"host", b""), "ascii")))
        kind = b"text/html" if scope["path"] == "/" else b"application/json"
        start = {"status": scope["status"], "headers": [(b"content-type", kind)]}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": str(len(made)).encode()})

    document = Document(app)

    def asked(host: str, path: str = "/", status: int = 200, **more: Any) -> str:
        told = list[Any]()

        async def send(message: Any) -> None:
            told.append(message)

        headers = [(b"host", host.encode()), (b"cookie", str(len(made)).encode())]
        scope = {"type": "http", "method": "GET", "path": path, "headers": headers}
        asyncio.run(document({**scope, "status": status, **more}, None, send))  # type: ignore
        return str(told[1]["body"], "ascii")

    assert asked("broken", status=500) != asked("broken"), "what is no document is not kept"
    first, other = asked("here"), asked("there")
    assert (asked("here"), asked("there")) == (first, other) and first != other
    assert asked("here", query_string=b"deep_link=x") != first
    assert asked("here", "/config") != asked("here", "/config")
    assert asked("here", scheme="https") != first
    for number in range(KEPT):
        asked(f"name {number}")
    assert asked("here") != first, "not more than a few are kept"


def test_an_update_that_waits_to_be_shown_is_not_changed_by_the_next(page: Any) -> None:
    """The page's script keeps one value for each output, which it changes in its place: an update
    that it has not shown by then must not lose what it says."""
    (event,) = page.fns.values()
    skip = gr.skip()
    updates = [
        [gr.update(interactive=False), "a", None],
        [skip, "ab", None],
        [gr.update(interactive=True), skip, None],
        [skip, skip, None],
    ]
    first, *diffs = (
        page.handle_streaming_diffs(event, list(update), "page", "run", False) for update in updates
    )
    known, waiting = list(first), [list(first)]
    for edits in diffs:
        known = [_edited(value, each) for value, each in zip(known, edits, strict=True)]
        waiting.append(list(known))
    assert waiting == updates
    page.handle_streaming_diffs(event, [None] * 3, "page", "run", True)
    assert not page.pending_diff_streams.get("page")


def _edited(value: Any, edits: list[Any]) -> Any:
    """As Gradio's script does it."""
    for action, path, what in edits:
        if not path:
            value = what if action == "replace" else value + what
            continue
        (key,) = path
        if action == "delete":
            del value[key]
        else:
            value[key] = what
    return value
