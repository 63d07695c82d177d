"""Training and models as a person sees them: start, watch together, pause, chat, load, free."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmapps.discovery import discover
from lmapps.training.runs import Runs

pytestmark = pytest.mark.browser
STORY = "The cat sat on the mat. The dog ran after the cat, and the cat ran up a tree. "
SMALL = """vocab_size = 300
context = 64
layers = 1
width = 32
batch_tokens = 256
steps = 90000
evaluations = 9000"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder with a run that is finished; nothing that is started lives on."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMAPPS_HOME", str(home))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield home
        runs = Runs()
        for name in runs.names():
            runs.pause(name)


@pytest.fixture(scope="module")
def served(
    serve: Callable[..., Any], home: Path, tiny_checkpoint: Callable[[str], Any]
) -> Iterator[Any]:
    from lmapps.engine.backends.source import found_sources

    old = home / "checkpoints" / "old"
    tiny_checkpoint("gru").save(old)
    (old / "README.md").write_text("---\nlicence: mit\n---\n# An old one\n\nIt knows little.")
    (old / "run").mkdir()
    (old / "run" / "settings.json").write_text("{}")
    scores = {"validation": {"loss": 2.5, "accuracy": 0.5}}
    (old / "report.json").write_text(json.dumps({"scores": scores}))
    (old / "report.html").write_text("<h1>The report</h1><script>document.title = 'x'</script>")
    log = [
        {"step": n, "tokens": 100 * n, "loss": 3 - n / 10, "seconds": float(n), "share": n / 5,
         "tokens_per_second": 100}
        for n in range(1, 6)
    ]  # fmt: skip
    (old / "run" / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    with serve(discover(), 0.005, find=found_sources) as running:
        yield running


def button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True).locator("visible=true")


def opened(page: Any, name: str) -> Any:
    """The tab of that name, wherever the row of tabs has room for it."""
    tab = page.get_by_role("tab", name=name, exact=True).locator("visible=true")
    if not tab.count():
        page.locator(".overflow-menu button").first.click()
        tab = page.locator(".overflow-dropdown button", has_text=name)
    tab.click()
    return page


def fill(page: Any, where: str, text: str) -> None:
    page.fill(f"{where} textarea, {where} input", text)


def told(page: Any, where: str, text: str, seconds: float = 20) -> None:
    page.locator(where).get_by_text(text).first.wait_for(timeout=seconds * 1000)


def test_a_run_is_started_watched_by_two_paused_and_chatted_with(
    visit: Callable[..., Any], served: Any
) -> None:
    page = opened(visit(), "Training")
    button(page, "Start").click()
    told(page, "#new-run-status", "a name has letters")
    fill(page, "#run-name", "cats")
    button(page, "Start").click()
    told(page, "#new-run-status", "No text to train on")
    fill(page, "#run-name", "old")
    button(page, "Start").click()
    told(page, "#new-run-status", "There is already a checkpoint 'old'")
    fill(page, "#run-name", "cats")
    fill(page, "#pasted", STORY * 60)
    fill(page, "#minutes", "30")
    page.get_by_role("button", name="More settings").click()
    fill(page, "#more", "dropuot = 1")
    button(page, "Start").click()
    told(page, "#new-run-status", "Unknown setting 'dropuot'")
    assert page.locator("#pasted textarea").input_value() == "", "the text is kept on the server"
    fill(page, "#more", SMALL)
    button(page, "Start").click()
    told(page, "#new-run-status", "cats trains now", 120)

    phone = opened(visit(width=390), "Training")
    for viewer in (page, phone):
        viewer.locator("#run-view .run-state", has_text="Training").wait_for(timeout=120_000)
        viewer.locator("#run-view polyline").first.wait_for(timeout=60_000)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    told(page, "#run-view", "Validation loss", 60)
    button(page, "Start").click()
    told(page, "#new-run-status", "There is already a checkpoint 'cats'")
    fill(page, "#run-name", "dogs")
    button(page, "Start").click()
    told(page, "#new-run-status", "one run at a time")

    button(phone, "Pause").click()
    for viewer in (phone, page):
        told(viewer, "#run-view", "paused after step", 60)
    button(page, "Chat with it").click()
    page.locator("#message textarea").wait_for(timeout=60_000)
    assert page.locator("#model input").input_value() == "cats"
    fill(page, "#message", "The cat")
    button(page, "Send").click()
    page.locator("#chat-chat .bot.message").first.wait_for(timeout=30_000)
    opened(page, "Training")
    button(page, "Back to unnamed").click()
    told(page, "#run-status", "unnamed answers on this page now")


def test_a_report_is_read_and_cannot_act_as_the_page(visit: Callable[..., Any]) -> None:
    page = opened(visit(), "Training")
    page.locator("#run input").click()
    page.get_by_role("option", name="old · Finished").click()
    with page.expect_popup() as opening:
        page.locator("#run-view a", has_text="Report").click()
    report = opening.value
    report.get_by_text("The report").wait_for()
    assert report.title() != "x", "no script runs in it"


def test_a_hidden_tab_asks_for_nothing(visit: Callable[..., Any]) -> None:
    page = opened(visit(), "Training")
    asked = list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(4500)
    assert sum("runs/version" in url for url in asked) >= 1
    opened(page, "Chat")
    page.wait_for_timeout(300)
    asked.clear()
    page.wait_for_timeout(4500)
    assert not [url for url in asked if "runs/version" in url or "queue/join" in url]


@pytest.mark.parametrize("width", [1280, 390])
def test_a_model_is_looked_at_loaded_freed_and_made_the_default(
    visit: Callable[..., Any], width: int
) -> None:
    page = opened(visit(width=width), "Models")
    page.locator("#models label", has_text="old").click()
    told(page, "#model-view", "On disk")
    for text in ("gru", "Scores at the end of its training", "2.5"):
        told(page, "#model-view", text)
    page.locator("#model-view polyline").first.wait_for()
    page.get_by_role("button", name="Card").click()
    page.get_by_text("It knows little.").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    button(page, "Load").click()
    told(page, "#model-status", "old is in memory", 60)
    button(page, "For everybody").click()
    told(page, "#model-view", "answers whoever chooses no other")
    button(page, "Back to unnamed for everybody").click()
    told(page, "#model-status", "unnamed answers whoever chooses no other")
    button(page, "Free its memory").click()
    told(page, "#model-status", "Its memory is free")


def test_a_model_that_cannot_be_got_is_a_sentence_and_the_button_is_back(
    visit: Callable[..., Any],
) -> None:
    page = opened(visit(), "Models")
    page.get_by_role("button", name="Get a model").click()
    button(page, "Get it").click()
    told(page, "#pulling", "No model is named")
    page.locator("#wanted input").fill("no-such-model")
    page.locator("#wanted input").press("Enter")
    button(page, "Get it").click()
    told(page, "#pulling", "There is no model 'no-such-model' to pull")
    assert button(page, "Get it").is_enabled()


@pytest.mark.parametrize("width", [1280, 390])
def test_two_models_answer_side_by_side_and_a_blind_vote_is_kept(
    visit: Callable[..., Any], width: int
) -> None:
    page = opened(visit(width=width), "Compare")
    page.locator("#compare-message textarea").wait_for()
    button(page, "Compare").click()
    told(page, "#compare-told", "The message is empty")
    page.locator("#compare-blind input").check()
    fill(page, "#compare-message", "The cat")
    button(page, "Compare").click()
    button(page, "A is better").wait_for(timeout=60_000)
    for number in range(2):
        assert page.locator(f"#compared-{number}").inner_text().strip()
        told(page, f"#took-{number}", "first token after")
    assert page.locator("#head-0").inner_text().strip() == "A", "nobody knows which is which"
    first, second = (page.locator(f"#compared-{n}").bounding_box() for n in range(2))
    assert (first["y"] == second["y"]) == (width > 720), "side by side, or one below the other"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    button(page, "A is better").click()
    told(page, "#compare-told", "Your vote is kept")
    heads = {page.locator(f"#head-{number}").inner_text().strip() for number in range(2)}
    assert "unnamed" in heads and len(heads) == 2, "the names are shown now"
    rows = page.locator("#votes tr").all_inner_texts()
    assert len(rows) == 3 and any("100%" in row or "50%" in row for row in rows)
    assert not button(page, "A is better").count(), "one vote for a comparison"
