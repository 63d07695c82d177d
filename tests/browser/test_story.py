"""From nothing to an application, while the server runs and others use it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmapps.__main__ import main
from lmapps.discovery import Library
from lmapps.model.checkpoint import Checkpoint
from lmapps.paths import plugin_folders
from lmapps.server.page.places import AT_ONCE
from tests.browser.hands import button

pytestmark = pytest.mark.browser


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def served(serve: Callable[..., Any], home: Path) -> Iterator[Any]:
    """A server that follows the person's plugin folder, at about thirty tokens a second."""
    library = Library()
    with serve(library.found, 0.03) as running, library.watched():
        running.library = library
        yield running


@pytest.fixture
def page(browser: Any, served: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(served.url)
    page.wait_for_selector("#send:not([disabled])")
    yield page
    page.close()
    served.wait_until_idle()
    assert not errors


def tab(page: Any, name: str) -> Any:
    return page.get_by_role("tab", name=name, exact=True)


def box(page: Any, field: str) -> Any:
    return page.locator(f"#field-{field}").locator("textarea, input").locator("visible=true")


def replies(page: Any) -> Any:
    return page.locator("#chat-chat .bot.message")


def command(*words: str) -> int:
    """Run a command in a thread: Playwright has an event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(main, words).result()


def test_from_nothing_to_a_tab_an_endpoint_a_command_and_a_trained_model(
    page: Any,
    served: Any,
    home: Path,
    tiny_checkpoint: Callable[[str], Checkpoint],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The whole story of a new plugin, with no line written but the edits."""
    tiny_checkpoint("gru").save(home / "checkpoints" / "default")
    tab(page, "News").click()
    box(page, "headline").fill("Typed before")
    tab(page, "Chat").click()
    page.fill("#message textarea", "Tell me everything")
    served.seconds_per_step = 0.6  # the chat is written for as long as all this takes
    button(page, "Send").click()
    replies(page).first.wait_for()
    page.fill("#message textarea", "and a word not sent yet")

    assert main(["plugins", "new", "haiku"]) == 0
    tab(page, "Haiku").wait_for()
    assert button(page, "Send").is_disabled(), "the chat is still being written"
    tab(page, "Haiku").click()
    box(page, "topic").fill("rain")
    button(page, "Write").click()
    page.wait_for_function("document.querySelector('#reply-haiku').innerText.trim()")

    file = home / "plugins" / "haiku.py"
    form = file.read_text()
    edited = form.replace("(topic: str)", "(topic: str, season: str = 'autumn')")
    file.write_text(edited.replace('title="Haiku"', 'title="Poems"'))
    tab(page, "Poems").wait_for()
    box(page, "season").wait_for()
    assert box(page, "season").input_value() == "autumn"
    assert tab(page, "Haiku").count() == 0

    tab(page, "News").click()
    assert box(page, "headline").input_value() == "Typed before"
    tab(page, "Chat").click()
    assert page.input_value("#message textarea") == "and a word not sent yet"
    before = len(replies(page).first.inner_text())
    page.wait_for_function(
        f"document.querySelector('#chat-chat .bot.message').innerText.length > {before}"
    )
    button(page, "Stop").click()
    page.get_by_text("Stopped.").locator("visible=true").wait_for()
    served.seconds_per_step = 0.0
    served.wait_until_idle()

    body = {"topic": "rain", "season": "May", "decoding": {"max_new_tokens": 8}}
    assert httpx.post(f"{served.url}/apps/haiku", json=body, timeout=30).json()["reply"]
    paths = httpx.get(f"{served.url}/openapi.json").json()["paths"]
    assert "season" in json.dumps(paths["/apps/haiku"])

    train = ["train", "--apps", "haiku", "--steps", "2", "--evaluations", "1"]
    assert command(*train) == 0
    assert (home / "checkpoints" / "haiku" / "model.safetensors").is_file()
    assert command("evaluate", "haiku", "--apps", "haiku") == 0
    assert command("run", "haiku", "--topic", "rain", "--checkpoint", "haiku") == 0
    assert "haiku" in (said := capsys.readouterr().out) and re.search("words.in.common", said)


def test_a_broken_edit_keeps_the_last_good_version_and_shows_the_fault(
    page: Any, served: Any, home: Path
) -> None:
    assert main(["plugins", "new", "haiku"]) == 0
    tab(page, "Haiku").click()
    file = home / "plugins" / "haiku.py"
    good = file.read_text()
    file.write_text("def f(:\n" + good)
    tab(page, "Plugins").click()
    page.locator("#plugins-page").get_by_text("not Python").wait_for()
    tab(page, "Haiku").click()
    box(page, "topic").fill("rain")
    button(page, "Write").click()
    page.wait_for_function("document.querySelector('#reply-haiku').innerText.trim()")
    served.wait_until_idle()
    file.write_text(good)
    tab(page, "Plugins").click()
    page.wait_for_function("!document.querySelector('#plugins-page').innerText.includes('Python:')")


def test_a_deleted_file_and_a_plugin_switched_off_lose_their_tab(
    page: Any, served: Any, home: Path
) -> None:
    assert main(["plugins", "new", "haiku"]) == 0
    tab(page, "Haiku").click()
    (home / "plugins" / "haiku.py").unlink()
    page.wait_for_function("!document.body.innerText.includes('Haiku')")
    assert tab(page, "Plugins").get_attribute("aria-selected") == "true", "nobody is left nowhere"
    assert main(["plugins", "off", "news"]) == 0
    page.wait_for_function(
        "![...document.querySelectorAll('[role=tab]')].some(tab => tab.innerText == 'News')"
    )
    page.locator("#plugins-page").get_by_text("switched off").wait_for()
    assert httpx.post(f"{served.url}/apps/news", json={"headline": "x"}).status_code == 404
    assert main(["plugins", "on", "news"]) == 0
    tab(page, "News").click()
    box(page, "headline").fill("Back again")


def test_a_conversation_is_kept_when_its_own_plugin_is_edited(
    browser: Any, serve: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "chat.py"
    text = (plugin_folders()[0] / "chat.py").read_text()
    file.write_text(text)
    library = Library([tmp_path])
    with serve(library.found, 0.005) as served, library.watched():
        page = browser.new_page()
        page.goto(served.url)
        page.fill("#message textarea", "Hello there")
        button(page, "Send").click()
        page.get_by_text(re.compile("longest length")).wait_for()
        page.wait_for_timeout(500)  # the browser writes down what was said
        file.write_text(text.replace('title="Chat"', 'title="Talk"'))
        tab(page, "Talk").wait_for()
        page.locator("#chat-chat .user.message").locator("visible=true").wait_for()
        page.close()


def test_of_many_plugins_the_last_is_drawn_when_it_is_opened(
    browser: Any, serve: Callable[..., Any], home: Path
) -> None:
    folder = home / "plugins"
    folder.mkdir()
    for number in range(AT_ONCE + 2):
        (folder / f"p{number}.py").write_text(
            "from lmapps import plugin\n\n@plugin\n"
            f"def p{number}(text: str, number: int = {number}) -> str:\n    return text\n"
        )
    library = Library([folder])
    with serve(library.found, 0.0) as served:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(served.url)
        tab(page, "P9").click()
        box(page, "text").fill("Hello")
        button(page, "Write").click()
        page.wait_for_function("document.querySelector('#reply-p9')?.innerText.trim()")
        page.close()
