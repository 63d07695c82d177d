"""How long `lmapps serve` takes until it answers, stage by stage, and its page until one can send.

    python benchmarks/startup.py --rounds 5

Each round starts the server anew, as a process of its own, and asks for the page until it is there;
another process goes through the same stages one after the other and says what each of them took.
Then a browser opens the page of a server that is warm: with an empty cache, and again. Files are in
the system's cache from the second round on; the first one is left out of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import machine

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
STAGES = """
import json, sys, time
start, taken = time.perf_counter(), {}

def stage(name):
    global start
    now = time.perf_counter()
    taken[name], start = now - start, now

import lmapps.server.settings
stage("lmapps")
import fastapi, uvicorn
stage("import fastapi, uvicorn")
import torch
stage("import torch")
import lmapps.server.serve as serve
stage("import lmapps.server")
import gradio
stage("import gradio")
from lmapps.discovery import Library
found = Library().found
stage("plugins")
from lmapps.server.accounts.access import access_of
from lmapps.server.settings import ServeSettings
from lmapps.server.store.store import Store
settings = ServeSettings(checkpoint=(sys.argv[1],))
store = Store(settings.database)
access = access_of(settings, store.database)
stage("database")
models = serve.models_of(settings, access)
models.load()
stage("model and engine")
serve.create_app(models, found, store, access)
stage("page and API")
print(json.dumps(taken))
models.close()
"""
USABLE = """() => {
    const box = document.querySelector("#message textarea");
    const send = document.querySelector("#send");
    const seen = box && !box.disabled && box.offsetParent && send && !send.disabled;
    if (!window.usable && seen) window.usable = performance.now();
    return window.usable;
}"""


def stages(checkpoint: str, home: str) -> dict[str, float]:
    """Seconds of each stage, in a process of its own."""
    words = [sys.executable, "-c", STAGES, checkpoint]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=_at(home))
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def serving(checkpoint: str, home: str) -> Iterator[tuple[str, float]]:
    """A server as a person starts it: its address, and the seconds until it answered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        sys.executable,
        "-m",
        "lmapps",
        "serve",
        "--checkpoint",
        checkpoint,
        "--port",
        str(port),
    ]
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, env=_at(home))
    try:
        url = f"http://127.0.0.1:{port}"
        while not _answers(url):
            assert process.poll() is None, "the server ended"
            time.sleep(0.02)
        yield url, time.perf_counter() - start
    finally:
        process.terminate()
        process.wait(30)


def opened(url: str, rounds: int) -> list[dict[str, float]]:
    """Seconds to the first paint and until one can write: with an empty cache, and again."""
    from playwright.sync_api import sync_playwright

    taken = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for _ in range(rounds):
            context = browser.new_context(viewport={"width": 1280, "height": 800})
            page = context.new_page()
            first, again = _open(page, url), _open(page, url)
            taken.append(first | {f"{name}, again": value for name, value in again.items()})
            context.close()
        browser.close()
    return taken


def _open(page: Any, url: str) -> dict[str, float]:
    page.goto(url, wait_until="commit")
    page.wait_for_function(USABLE, polling=20)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
    usable = page.evaluate("window.usable")
    received = page.evaluate(
        "performance.getEntries().reduce((sum, e) => sum + (e.transferSize || 0), 0)"
    )
    return {"first paint": paint / 1000, "can write": usable / 1000, "MB": received / 1e6}


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=30).status_code == 200
    except httpx.TransportError:
        return False


def _at(home: str) -> dict[str, str]:
    return os.environ | {"LMAPPS_HOME": home}


def rows(name: str, rounds: Sequence[dict[str, float]]) -> list[list[str]]:
    """One row a measure: its median and spread over the rounds."""
    columns = {key: [each[key] for each in rounds] for key in rounds[0]}
    return [
        [name, key, f"{machine.median(values):.2f}", machine.spread(values)]
        for key, values in columns.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpoint", default="default")
    args = parser.parse_args()
    ready, staged = [], []
    with tempfile.TemporaryDirectory() as home:
        for _ in range(args.rounds + 1):
            with serving(args.checkpoint, home) as (_, seconds):
                ready.append({"answers": seconds})
            staged.append(stages(args.checkpoint, home))
        ready, staged = ready[1:], staged[1:]
        browsed = []
        if Path(CHROMIUM).exists():
            with serving(args.checkpoint, home) as (url, _):
                browsed = opened(url, args.rounds + 1)[1:]
    result = {"start": ready, "stages": staged, "page": browsed}
    measured = [row for name, taken in result.items() if taken for row in rows(name, taken)]
    print(machine.table(["", "seconds", "median", "spread"], measured))
    about = {"machine": machine.describe(os.cpu_count() or 1), "settings": vars(args)}
    print(f"\nwritten to {machine.write('startup', about | result)}")


if __name__ == "__main__":
    main()
