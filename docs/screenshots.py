"""The real product with its default checkpoint -> pictures of each tab for README and docs.

    ./dev screenshots

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from tests.browser.hands import button, fill, open_tab, tabs  # noqa: E402

IMAGES = ROOT / "docs" / "images"
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


def chatted(page: Any) -> None:
    for text in ("Hello! Who are you?", "What is a river?"):
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


USES: dict[str, Callable[[Any], None]] = {
    "Chat": chatted, "Code": written, "News": written, "Summarize": written,
    "Compare": compared,
}  # fmt: skip
"""What is done in a tab before it is pictured; the others are only opened."""


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


def pictures(browser: Any, url: str) -> Iterator[tuple[str, bytes]]:
    """File names and PNG images."""
    for ending in SIZES:
        for scheme in ("light", "dark"):
            visitor = browser.new_context(viewport=_size(ending), color_scheme=scheme)
            page = visitor.new_page()
            page.goto(url)
            page.wait_for_selector("#send:not([disabled])")
            for name in tabs(page):
                open_tab(page, name)
                page.wait_for_timeout(300)
                USES.get(name, lambda _: None)(page)
                page.mouse.move(0, 0)
                page.wait_for_timeout(600)
                page.evaluate(UNNAMED, str(ROOT))
                yield f"{name.lower()}-{scheme}{ending}", page.screenshot()
            visitor.close()


def _size(ending: str) -> dict[str, int]:
    width, height = SIZES[ending]
    return {"width": width, "height": height}


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    total = 0
    with serving() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, png in pictures(browser, url):
            file = IMAGES / f"{name}.webp"
            Image.open(io.BytesIO(png)).save(file, quality=QUALITY, method=6)
            total += file.stat().st_size
            print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB", flush=True)
        browser.close()
    print(f"{total / 1000:.0f} kB in all")
    if total > LIMIT:
        sys.exit(f"more than {LIMIT / 1000:.0f} kB: lower QUALITY")


if __name__ == "__main__":
    main()
