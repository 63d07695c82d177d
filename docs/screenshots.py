"""The real product with its default checkpoint -> pictures of each tab for README and docs.

    ./dev screenshots              all of them
    ./dev screenshots chat models  those of some tabs

Each tab in light and in dark, on a desk and on a phone, after somebody has used it.
"""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from tests.browser.hands import button, fill, open_tab, seen, tabs, unfold  # noqa: E402

DOCS = ROOT / "docs"
IMAGES = DOCS / "images"
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
SIZES = {"": (1280, 800), "-phone": (390, 844)}
QUALITY = 70
UNNAMED = """root => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const text = texts.currentNode;
        if (text.data.includes(root)) text.data = text.data.replaceAll(root, "~/lmapps");
    }
}"""
"""Where the project lies on this machine is nobody's business."""
LIMIT = 1_000_000
"""Bytes of all pictures together: they are part of every clone."""


def chatted(page: Any, *said: str) -> None:
    for text in said or ("Hello! Who are you?", "What is a river?"):
        page.fill("#message textarea", text)
        button(page, "Send").click()
        ended(page, "Send")


def written(page: Any) -> None:
    """The form filled in by its first example, and its reply."""
    page.locator("tbody td").locator("visible=true").first.click()
    page.wait_for_timeout(500)
    button(page, "Write").click()
    ended(page, "Write")


def compared(page: Any) -> None:
    """One model asked in two ways."""
    page.locator("#compare-message").wait_for()
    fill(page, "#compare-message", "What is a river?")
    page.locator("#way-1 input").click()
    page.get_by_role("option", name="Creative").locator("visible=true").click()
    page.locator(".tabitem button.primary", has_text="Compare").locator("visible=true").click()
    button(page, "None is better").wait_for(timeout=120_000)


def looked_into(page: Any) -> None:
    """The tokens of a reply that the model has to make up, and what else might have come in one's
    place."""
    chatted(page, "What is a glacier?")
    unfold(page, "Inside the reply")
    seen(page, "#score").click()
    seen(page, ".strip :is(.less, .unlikely, .surprising)").first.click()
    seen(page, ".detail .row").first.wait_for()
    seen(page, ".saw").first.evaluate("panel => panel.scrollIntoView()")


def trained(page: Any) -> None:
    """A small model that has read these pages for a minute, with its curves and samples."""
    told = page.locator("#run-view")
    told.get_by_text("There is no run yet").or_(told.get_by_text("Finished")).wait_for()
    if told.get_by_text("Finished").count():  # by an earlier visitor
        return
    fill(page, "#pasted", "\n\n".join(file.read_text() for file in sorted(DOCS.glob("*.md"))))
    fill(page, "#minutes", "1")
    fill(page, "#run-name", "docs")
    button(page, "Start").click()
    told.get_by_text("Finished").wait_for(timeout=300_000)
    page.evaluate("scrollTo(0, 0)")


USES: dict[str, Callable[[Any], None]] = {
    "Chat": chatted, "Code": written, "News": written, "Summarize": written,
    "Compare": compared, "Training": trained,
}  # fmt: skip
"""What is done in a tab before it is pictured; the others are only opened."""
MORE: dict[str, dict[str, Callable[[Any], None]]] = {"Chat": {"inside": looked_into}}
"""What is done after that in a tab, for further pictures of it by these names."""


def ended(page: Any, name: str) -> None:
    """Wait for the end of a reply: the button that asks for one is off meanwhile."""
    page.wait_for_timeout(500)
    page.wait_for_function(
        """name => [...document.querySelectorAll("button")].some(button =>
            button.offsetParent && button.innerText.trim() === name && !button.disabled)""",
        arg=name,
        timeout=120_000,
    )


@contextmanager
def serving() -> Iterator[str]:
    """`lmapps serve` with nothing kept from before."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        words = [sys.executable, "-m", "lmapps", "serve", "--port", str(port)]
        process = subprocess.Popen(words, env=os.environ | {"LMAPPS_HOME": home})
        try:
            url = f"http://127.0.0.1:{port}"
            while not _answers(url):
                assert process.poll() is None, "the server ended"
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=30).status_code == 200
    except httpx.TransportError:
        return False


def pictures(browser: Any, url: str, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """File names and PNG images, of some tabs or, if none is named, of all."""
    for ending in SIZES:
        for scheme in ("light", "dark"):
            visitor = browser.new_context(viewport=_size(ending), color_scheme=scheme)
            page = visitor.new_page()
            page.goto(url)
            page.wait_for_selector("#send:not([disabled])")
            for tab in tabs(page):
                if wanted and tab.lower() not in wanted:
                    continue
                open_tab(page, tab)
                page.wait_for_timeout(300)
                uses = {tab.lower(): USES.get(tab, lambda _: None), **MORE.get(tab, {})}
                for name, use in uses.items():
                    use(page)
                    yield f"{name}-{scheme}{ending}", pictured(page)
            visitor.close()


def pictured(page: Any) -> bytes:
    """What is to be seen once it has settled."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(600)
    page.evaluate(UNNAMED, str(ROOT))
    return bytes(page.screenshot())


def _size(ending: str) -> dict[str, int]:
    width, height = SIZES[ending]
    return {"width": width, "height": height}


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with serving() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, png in pictures(browser, url, sys.argv[1:]):
            file = IMAGES / f"{name}.webp"
            Image.open(io.BytesIO(png)).save(file, quality=QUALITY, method=6)
            print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB", flush=True)
        browser.close()
    total = sum(file.stat().st_size for file in IMAGES.iterdir())
    print(f"{total / 1000:.0f} kB in all")
    if total > LIMIT:
        sys.exit(f"more than {LIMIT / 1000:.0f} kB: lower QUALITY")


if __name__ == "__main__":
    main()
