"""Models as a person sees them: what is there, loaded, freed, made the default, and got."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import is_offline_mode

from lmapps.pull import apart
from lmapps.pull.known import OnProgress, Progress
from tests.browser.hands import button, fill, open_tab, serious, shown, told, value, wait_for
from tests.fake_hub import fake_hub

pytestmark = pytest.mark.browser
DESK = pytest.mark.parametrize("width", [1280, pytest.param(390, marks=pytest.mark.long)])
"""A phone in the long tier."""


@pytest.mark.parametrize("width", [1280, 390])
def test_a_model_is_looked_at_loaded_freed_and_made_the_default(
    visit: Callable[..., Any], width: int
) -> None:
    page = open_tab(visit(width=width), "Models")
    page.locator("#models label", has_text="old").click()
    told(page, "#model-view", "On disk")
    for text in ("gru", "Scores at the end of its training", "2.5"):
        told(page, "#model-view", text)
    page.locator("#model-view polyline").first.wait_for()
    page.get_by_role("button", name="Card").click()
    page.get_by_text("It knows little.").wait_for()
    with page.expect_popup() as opening:
        page.locator("#model-view a", has_text="Report").click()
    opening.value.get_by_text("The report").wait_for()
    opening.value.close()
    assert not serious(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    button(page, "Load").click()
    told(page, "#model-status", "old is in memory", 60)
    button(page, "For everybody").click()
    told(page, "#model-view", "answers whoever chooses no other")
    button(page, "Back to unnamed for everybody").click()
    told(page, "#model-status", "unnamed answers whoever chooses no other")
    button(page, "Free its memory").click()
    told(page, "#model-status", "Its memory is free")


@DESK
def test_what_is_wrong_with_a_model_is_told_beside_it_and_in_a_line_above_all(
    visit: Callable[..., Any], served: Any, width: int
) -> None:
    page, line = open_tab(visit(width=width), "Models"), "#trouble"
    counts = served.engine.counts
    counts.trouble = time.monotonic(), "no memory <img src=x>"
    told(page, line, "A model needs looking after: the Models tab says which, and why.")
    page.locator("#models label", has_text="old").click()
    wait_for(page, lambda: "On disk" in shown(page, "#model-view"))
    assert "could not answer" not in shown(page, "#model-view")
    page.locator("#models label", has_text="unnamed").click()
    told(page, "#model-view", "could not answer somebody (no memory <img src=x>)")
    told(page, "#models", "unnamed · In memory · ⚠")
    counts.trouble = None
    page.locator(line).wait_for(state="hidden", timeout=20_000)


@DESK
def test_a_model_that_cannot_be_got_is_a_sentence_and_the_button_is_back(
    visit: Callable[..., Any], width: int
) -> None:
    page = open_tab(visit(width=width), "Models")
    page.get_by_role("button", name="Get a model").click()
    button(page, "Get it").click()
    told(page, "#pulling", "No model is named")
    page.locator("#wanted input").fill("no-such-model")
    page.locator("#wanted input").press("Enter")
    button(page, "Get it").click()
    told(page, "#pulling", "There is no model 'no-such-model' to pull")
    assert button(page, "Get it").is_enabled()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_model_comes_with_a_bar_is_stopped_and_comes_again_from_a_folder(
    visit: Callable[..., Any],
    home: Path,
    tmp_path: Path,
    tiny_checkpoint: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
) -> None:
    looked, ended = threading.Event(), threading.Event()

    def slow(name: str, *, licence: str, on_progress: OnProgress, **_: Any) -> Path:
        try:
            on_progress(Progress("downloading", 30_000_000, 120_000_000))
            assert looked.wait(30)
            while True:
                on_progress(Progress("downloading", 40_000_000, 120_000_000))
        finally:
            ended.set()

    page = open_tab(visit(width=width), "Models")
    page.get_by_role("button", name="Get a model").click()
    with monkeypatch.context() as patch:
        patch.setattr("lmapps.pull.pull.pull", slow)
        fill(page, "#wanted", "somebody/something")
        page.keyboard.press("Enter")
        button(page, "Get it").click()
        told(page, "#pulling", "downloading 30.0 MB / 120.0 MB")
        bar = page.locator("#pulling [role=progressbar]")
        assert bar.get_attribute("aria-valuenow") == "25"
        assert button(page, "Get it").is_disabled()
        button(page, "Stop").click()
        looked.set()
        told(page, "#pulling", "Stopped.")
        assert ended.wait(30), "the pull ends with who wanted it"

    name = f"brought-{width}"
    tiny_checkpoint("gru").save(tmp_path / name)
    fill(page, "#wanted", str(tmp_path / "nowhere"))
    page.keyboard.press("Enter")
    button(page, "Get it").click()
    told(page, "#pulling", "There is no folder")
    fill(page, "#wanted", str(tmp_path / name))
    page.keyboard.press("Enter")
    button(page, "Get it").click()
    told(page, "#pulling", f"{name} is here")
    told(page, "#model-view", str(home / "checkpoints" / name))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    button(page, "Chat with it").click()
    wait_for(page, lambda: value(page, "#model") == name)


@DESK
def test_a_model_of_the_hub_is_got_at_a_press_though_the_server_stays_inside(
    visit: Callable[..., Any],
    width: int,
    home: Path,
    tiny_checkpoint: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def get(name: str, answer: str) -> None:
        fill(page, "#wanted", name)
        page.keyboard.press("Enter")
        button(page, "Get it").click()
        told(page, "#pulling", answer, 60)
        assert button(page, "Get it").is_enabled()

    monkeypatch.setattr(apart, "GIVEN", None)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    page, name = open_tab(visit(width=width), "Models"), f"model-{width}"
    page.get_by_role("button", name="Get a model").click()
    get(f"some/{name}", "cannot be downloaded from the Hub")
    with fake_hub(tiny_checkpoint("transformer")) as (_, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        get("nobody/none", "The Hub has no public model nobody/none")
        with monkeypatch.context() as patch:
            patch.setattr(apart, "GIVEN", "1")
            get(f"some/{name}", "HF_HUB_OFFLINE, which is set here, forbids to ask it")
        get(f"some/{name}", f"{name} is here")
    told(page, "#model-view", str(home / "checkpoints" / name))
    assert is_offline_mode(), "nothing else goes out"
