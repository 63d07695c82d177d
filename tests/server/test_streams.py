"""Updates of an event that tells several things, beside what Gradio itself would send."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import gradio as gr
import pytest
from gradio.context import LocalContext
from hypothesis import given
from hypothesis import strategies as st

from lmapps.server.page.sparing import OpenPage, Page
from lmapps.server.page.streams import _edits

texts = st.text("ab", max_size=3)
turns = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": texts})
values = st.one_of(
    texts,
    st.none(),
    st.lists(turns, max_size=4),
    st.fixed_dictionaries({"__type__": st.just("update"), "interactive": st.booleans()}),
)


def shown(value: Any, edits: Sequence[Any]) -> Any:
    """What the page's script makes of a value and its edits."""
    value = copy.deepcopy(value)
    for how, path, what in edits:
        if not path:
            value = value + what if how == "append" else what
            continue
        *before, last = path
        inside = value
        for step in before:
            inside = inside[step]
        if how == "append":
            inside[last] += what
        elif how == "delete":
            del inside[last]
        elif how == "add" and isinstance(inside, list):
            inside.insert(last, what)
        else:
            inside[last] = what
    return value


@given(was=values, now=values)
def test_edits_make_the_new_value_of_the_old_one(was: Any, now: Any) -> None:
    assert shown(was, _edits(was, now)) == now


def test_of_a_growing_reply_only_what_is_new_is_sent() -> None:
    before = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    now = [before[0], {"role": "assistant", "content": "Hi there"}]
    assert _edits(before, now) == [["append", [1, "content"], " there"]]
    assert _edits(before, before) == []


async def counted(request: gr.Request, upto: str) -> AsyncGenerator[Any, None]:
    for number in range(int(upto)):
        assert LocalContext.request.get() is request
        yield (
            f"{request.username} counts {'I' * number}",
            [{"role": "user", "content": str(number)}],
        )
    if upto == "4":
        raise ValueError("four is too many")


def page_of(kind: Any, fn: Any) -> Any:
    with kind() as page:
        page.box, page.line, page.talk = gr.Textbox(), gr.Markdown(), gr.Chatbot()
        page.box.submit(fn, page.box, [page.line, page.talk])
    return page


async def told(page: Any, upto: str) -> list[tuple[list[Any], bool]]:
    """What is sent for one event after the other, and whether it goes on."""
    (event,) = page.fns.values()
    asks, state, iterator, sent = gr.Request(username="Ann"), OpenPage(page), None, []
    while True:
        answer = await page.process_api(
            event, [upto], state=state, request=asks, iterator=iterator, session_hash="s",
            event_id="e", in_event_listener=True, simple_format=False, root_path="http://x",
        )  # fmt: skip
        iterator = answer["iterator"]
        sent.append((answer["data"], answer["is_generating"]))
        if not answer["is_generating"]:
            return sent


def test_a_stream_tells_what_gradio_would_and_asks_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = asyncio.run(told(page_of(gr.Blocks, counted), "3"))
    monkeypatch.setattr("gradio.blocks.anyio.to_thread.run_sync", None)
    ours = asyncio.run(told(page_of(Page, counted), "3"))
    assert [goes_on for _, goes_on in ours] == [True, True, True, False]
    assert states(ours) == states(theirs)
    lines = [line for line, _ in states(ours)]
    assert lines == [f"Ann counts {'I' * min(number, 2)}" for number in range(4)]


def states(told: list[tuple[list[Any], bool]]) -> list[list[Any]]:
    """What the page shows after each message: the first and the last one are whole."""
    (first, _), *rest = told
    seen = [first]
    for sent, goes_on in rest:
        if goes_on:
            sent = [shown(old, edits) for old, edits in zip(seen[-1], sent, strict=True)]
        seen.append(sent)
    return seen


def test_what_a_stream_raises_ends_it() -> None:
    with pytest.raises(ValueError, match="four is too many"):
        asyncio.run(told(page_of(Page, counted), "4"))


def test_a_stream_with_a_state_among_its_outputs_is_gradios() -> None:
    async def grow(upto: str) -> AsyncGenerator[Any, None]:
        for number in range(int(upto)):
            yield "a" * number, number

    with Page() as page:
        box, line, kept = gr.Textbox(), gr.Markdown(), gr.State(0)
        box.submit(grow, box, [line, kept])
    (event,) = page.fns.values()

    async def states() -> list[Any]:
        open_page, iterator, seen = OpenPage(page), None, []
        for _ in range(3):
            answer = await page.process_api(
                event, ["3"], state=open_page, iterator=iterator, session_hash="s", event_id="e"
            )
            iterator = answer["iterator"]
            seen.append(open_page[kept._id])
        return seen

    assert asyncio.run(states()) == [0, 1, 2]
