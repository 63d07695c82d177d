"""The same page and plugins on each kind of model that it serves, chosen at its top."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lmapps.discovery import discover
from lmapps.engine.backends.source import Source
from lmapps.model.checkpoint import Checkpoint
from tests.browser.hands import (
    button,
    choose,
    fill,
    open_tab,
    shown,
    wait_for,
    wait_until_pressable,
)
from tests.engine.test_transformers import make

pytestmark = pytest.mark.browser
KINDS = {
    "unnamed": "a transformer of",
    "smollm2": "128 tokens of context",
    "theirs": "a llama of",
    "far": "unnamed at http://127",
}
FORMS = {
    "News": ("#field-headline", "Rain falls"),
    "Code": ("#field-instruction", "Add two numbers."),
    "Summarize": ("#field-text", "The cat sat on the mat."),
}


@pytest.fixture(scope="session")
def served(
    serve: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Callable[[str], Checkpoint],
) -> Iterator[Any]:
    """Our model, Llama folders for our own step and for transformers, another server of ours."""
    checkpoint = tiny_checkpoint("transformer")
    smollm2, theirs = (
        str(make(kind, tmp_path_factory.mktemp(kind), checkpoint)) for kind in ("smollm2", "llama")
    )
    with serve(discover(), 0.0) as other:
        more = {"smollm2": smollm2, "theirs": theirs, "far": f"{other.url}/v1"}
        sources = {name: Source(name, place) for name, place in more.items()}
        with serve(discover(), 0.0, find=lambda: sources) as running:
            yield running


def test_the_page_works_on_each_of_them(visit: Callable[..., Any]) -> None:
    page = visit()
    for number, (model, about) in enumerate(KINDS.items()):
        open_tab(page, "Chat")
        if number:
            choose(page, "#model", model)
        wait_for(page, lambda a=about: a in shown(page, "#about"))
        fill(page, "#message", "Where is the cat?")
        button(page, "Send").click()
        said = page.locator("#chat-chat .bot.message").nth(number)
        said.wait_for()
        wait_until_pressable(page, "Send")
        assert said.inner_text().strip()
        for tab, (field, text) in FORMS.items():
            open_tab(page, tab)
            place = f"#reply-{tab.lower()}"
            before = shown(page, place)
            fill(page, field, text)
            button(page, "Write").click()
            wait_for(page, lambda p=place, b=before: shown(page, p) not in ("", b))
            wait_until_pressable(page, "Write")
