"""Runs from the form to the chat: examples, feedback and recipes, several viewers, restarts."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmapps.discovery import discover
from lmapps.training.runs import Runs
from lmapps.training.settings import TrainSettings
from tests.browser.hands import (
    button,
    choose,
    device,
    fill,
    open_tab,
    seen,
    serious,
    told,
    unfold,
    value,
    wait_for,
)

pytestmark = pytest.mark.browser
Visit = Callable[..., Any]
Started = list[TrainSettings]


@pytest.fixture(autouse=True)
def alone(home: Path) -> Iterator[None]:
    """One run at a time: none is left over for the next test."""
    yield
    runs = Runs()
    while name := runs.live():
        runs.pause(name)


def stands(page: Any, state: str) -> None:
    """Wait for the state of the run that is shown."""
    told(page, "#run-view .run-state", state)


def compared_as(text: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """`lmapps evaluate` prints this; the words that it was called with."""
    called = list[tuple[str, ...]]()

    def program(*words: str) -> list[str]:
        called.append(words)
        return [sys.executable, "-c", f"print({text!r})"]

    monkeypatch.setattr("lmapps.training.against.program", program)
    return called


@pytest.mark.parametrize("width", [1280, 390])
def test_plugins_examples_and_a_recipe_become_a_checkpoint_to_chat_with(
    visit: Visit, home: Path, quick: Started, width: int
) -> None:
    (home / "data").mkdir(exist_ok=True)
    (home / "data" / "short.toml").write_text("steps = 7\ndropout = 0.2\n")
    page, name = open_tab(visit(width=width), "Training"), f"manners{width}"
    page.get_by_text("Plugins' examples").click()
    fill(page, "#run-name", name)
    button(page, "Start").click()
    told(page, "#new-run-status", "No plugin is chosen")
    page.locator("#train-apps label", has_text="Chat").click()
    choose(page, "#start-from", "old")
    unfold(page, "More settings")
    choose(page, "#recipe", "short.toml")
    wait_for(page, lambda: "steps = 7" in value(page, "#more"))
    button(page, "Start").click()
    told(page, "#new-run-status", f"{name} trains now")
    stands(page, "Finished")
    for curve in ("Loss", "Metrics on held-out examples", "Tokens a second"):
        page.locator("#run-view figcaption", has_text=curve).first.wait_for()
    (settings,) = quick
    assert settings.apps == ("chat",) and settings.steps == 7 and settings.dropout == 0.2
    assert settings.start_from == str(home / "checkpoints" / "old") and not settings.minutes
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not serious(page)
    button(page, "Chat with it").click()
    page.wait_for_selector("#send:not([disabled])")
    wait_for(page, lambda: value(page, "#model") == name)
    fill(page, "#message", "Hello")
    button(page, "Send").click()
    page.locator("#chat-chat .bot.message").first.wait_for()


def test_what_to_train_on_is_chosen_before_the_tab_knows_what_is_there(visit: Visit) -> None:
    page, held, is_held = visit(), list[Any](), [True]
    page.route(
        "**/queue/join*", lambda route: held.append(route) if is_held[0] else route.continue_()
    )
    open_tab(page, "Training")
    wait_for(page, lambda: bool(held))
    is_held[0] = False
    page.get_by_text("Plugins' examples").click()
    page.locator("#train-apps").wait_for()
    page.wait_for_timeout(300)
    for route in held:
        route.continue_()
    page.locator("#train-apps label", has_text="Chat").click()
    button(page, "Start").click()
    told(page, "#new-run-status", "a name has letters")
    assert not page.locator(".toast-body").count()


@pytest.mark.parametrize("width", [1280, pytest.param(390, marks=pytest.mark.long)])
def test_replies_that_were_liked_are_trained_on_and_compared_on_rows_kept_apart(
    visit: Visit, home: Path, quick: Started, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    liked = f"liked{width}"
    scores = {
        str(home / "checkpoints" / name): {"chat": {"examples": 1, "words_in_common": score}}
        for name, score in (("old", 0.125), (liked, 0.75))
    }
    called = compared_as(json.dumps(scores), monkeypatch)
    page = open_tab(visit(width=width), "Training")
    page.get_by_text("Corrected and liked replies").click()
    told(page, "#feedback-told", "1 replies to train on, 1 kept apart")
    choose(page, "#start-from", "old")
    fill(page, "#run-name", liked)
    unfold(page, "More settings")
    fill(page, "#more", "steps = 3")
    button(page, "Start").click()
    told(page, "#new-run-status", f"{liked} trains now")
    stands(page, "Finished")
    kept = home / "data" / liked
    assert quick[0].data == (f"chat={kept / 'train.jsonl'}",)
    rows = [(kept / f"{part}.jsonl").read_text() for part in ("train", "held_out")]
    assert {"Hello!" in row for row in rows} == {True, False}, "each on one side"

    button(page, "Compare with before").click()
    told(page, "#run-status", "old is still there")
    table = seen(page, "#run-scores")
    for text in ("old", liked, "0.125", "0.75"):
        table.get_by_text(text).first.wait_for()
    assert str(kept / "held_out.jsonl") in " ".join(called[0])
    button(page, "Chat with it").click()
    wait_for(page, lambda: value(page, "#model") == liked)
    open_tab(page, "Training")
    button(page, "Back to unnamed").click()
    told(page, "#run-status", "unnamed answers on this page now")
    assert value(page, "#model") == "unnamed"


@pytest.mark.long
def test_a_correction_is_trained_on_scored_and_taken_back_and_nothing_of_it_is_made_up(
    visit: Visit, served: Any, home: Path
) -> None:
    """The same with a real run and real scores."""
    asked = "What is the capital of the moon?"
    for number in range(8):
        made = served.store.begin("somebody", "chat", asked)
        question = served.store.add("somebody", made, None, "user", f"{asked} {number}", "person")
        served.store.add("somebody", made, question.id, "assistant", "It has none.", "person")
    page = open_tab(visit(), "Training")
    page.get_by_text("Corrected and liked replies").click()
    choose(page, "#start-from", "old")
    fill(page, "#run-name", "felt")
    unfold(page, "More settings")
    fill(page, "#more", "steps = 5\nbatch_tokens = 256")
    button(page, "Start").click()
    told(page, "#new-run-status", "felt trains now", 120)
    told(page, "#run-view .run-state", "Finished", 240)
    assert Runs().look("felt").log[-1]["step"] == 5
    rows = (home / "data" / "felt" / "train.jsonl").read_text()
    assert "It has none." in rows and asked in rows
    before, after = (
        (home / "checkpoints" / name / "model.safetensors").read_bytes() for name in ("old", "felt")
    )
    assert before != after

    button(page, "Compare with before").click()
    told(page, "#run-status", "old is still there", 240)
    header, *scores = [
        row.split("\t") for row in page.locator("#run-scores tr").all_inner_texts()
    ]  # fmt: skip
    table = {name: dict(zip(header[1:], cells, strict=True)) for name, *cells in scores}
    kept = len((home / "data" / "felt" / "held_out.jsonl").read_text().splitlines())
    for name in ("old", "felt"):
        assert table["examples"][name] == str(kept)
        assert 0 <= float(table["words in common"][name]) <= 1

    button(page, "Chat with it").click()
    wait_for(page, lambda: value(page, "#model") == "felt")
    fill(page, "#message", asked)
    button(page, "Send").click()
    page.locator("#chat-chat .bot.message").first.wait_for()
    open_tab(page, "Training")
    button(page, "Back to unnamed").click()
    told(page, "#run-status", "unnamed answers on this page now")
    assert value(page, "#model") == "unnamed"


def test_what_two_viewers_do_to_a_run_both_see(
    visit: Visit, quick: Started, tmp_path: Path
) -> None:
    page = open_tab(visit(), "Training")
    (tmp_path / "story.txt").write_text("The cat sat on the mat. " * 60)
    page.locator("#train-files input[type=file]").set_input_files(tmp_path / "story.txt")
    told(page, "#train-files", "story")
    fill(page, "#run-name", "shared")
    button(page, "Start").click()
    told(page, "#new-run-status", "shared trains now")
    phone = open_tab(visit(width=390), "Training")
    for viewer in (page, phone):
        stands(viewer, "Training")
        told(viewer, "#run-view", "left")
        viewer.locator("#run-view polyline").first.wait_for()
    button(phone, "Pause").click()
    for viewer in (page, phone):
        stands(viewer, "Paused")
        told(viewer, "#run-view", "paused after step")
    button(page, "Resume").click()
    for viewer in (page, phone):
        stands(viewer, "Training")
    button(phone, "Stop and keep").click()
    for viewer in (page, phone):
        stands(viewer, "Finished")
        button(viewer, "Chat with it").wait_for()
        assert not button(viewer, "Resume").count()
    steps = [entry["step"] for entry in Runs().look("shared").log]
    assert steps == sorted(set(steps)) and len(steps) > 2, "it went on where it was"


@pytest.mark.parametrize("width", [1280, pytest.param(390, marks=pytest.mark.long)])
def test_a_run_goes_on_while_the_server_is_restarted_and_no_browser_is_open(
    browser: Any, serve: Callable[..., Any], quick: Started, width: int
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context, name = browser.new_context(**device(width)), f"outlives-{width}"
    with serve(discover(), 0.0, port=port) as server:
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_selector("#send:not([disabled])")
        open_tab(page, "Training")
        fill(page, "#pasted", "The cat sat on the mat. " * 60)
        fill(page, "#run-name", name)
        button(page, "Start").click()
        stands(page, "Training")
        page.close()
    before = len(Runs().look(name).log)
    with serve(discover(), 0.0, port=port) as server:
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_selector("#send:not([disabled])")
        open_tab(page, "Training")
        stands(page, "Training")
        assert len(Runs().look(name).log) > before
        button(page, "Pause").click()
        stands(page, "Paused")
    context.close()
