"""The nginx.conf that is shipped, in a real nginx: at the root of a site and at a path of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from lmapps.server.accounts.users import Users
from lmapps.server.store.store import Store
from tests.deploy.conftest import SLOW, free_port

pytestmark = pytest.mark.browser
PATH = pytest.param("/lmapps", id="path", marks=pytest.mark.long)
PASSWORD = "correct horse"


class Site(NamedTuple):
    url: str
    """Of the page, with / at its end."""
    key: str
    lmapps: Any


@pytest.fixture(scope="module", params=[pytest.param("", id="root"), PATH])
def site(
    request: pytest.FixtureRequest, programs: Any, nginx: Any, tiny_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:  # fmt: skip
    import sys

    root, port, folder = request.param, free_port(), tmp_path_factory.mktemp("site")
    database = f"sqlite:///{folder / 'site.db'}"
    store = Store(database)
    Users(store.database).add("ann", PASSWORD)
    key = Users(store.database).add_key("ann", "test")
    store.close()
    words = [
        *("serve", "--port", str(port), "--checkpoint", str(tiny_folder), "--database", database),
        *(("--root-path", root) if root else ()),
    ]
    lmapps = programs(f"lmapps{len(root)}", [sys.executable, "-c", SLOW, *words], port)
    changes = {"127.0.0.1:7860": f"127.0.0.1:{port}"}
    if root:  # what the file says to do
        changes |= {"location ~ ^/": f"location ~ ^{root}/", "location / {": f"location {root}/ {{"}
    proxy = nginx(f"nginx{len(root)}", "nginx.conf", changes)
    lmapps.wait(f"{root}/health")
    yield Site(f"{proxy.url}{root}/", key, lmapps)


class Visitor:
    """A browser that notes whatever went wrong."""

    def __init__(self, browser: Any, url: str) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 900})
        self.page, self.url, self.faults = self.context.new_page(), url, list[str]()
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("response", self._note)

    def _note(self, answer: Any) -> None:
        if answer.status >= 400:
            self.faults.append(f"{answer.status} {answer.url}")
        if not answer.url.startswith((self.url, "data:", "blob:")):
            self.faults.append(f"outside: {answer.url}")

    def log_in(self, name: str = "ann") -> None:
        self.page.goto(self.url)
        self.page.fill("input[name=name]", name)
        self.page.fill("input[name=password]", PASSWORD)
        self.page.get_by_role("button", name="Log in").click()
        self.arrive()

    def arrive(self) -> None:
        self.page.wait_for_selector("#send:not([disabled])", timeout=60_000)
        self.page.wait_for_selector("#account a")


def test_the_page_its_files_accounts_and_replies_work_through_it(browser: Any, site: Site) -> None:
    ann = Visitor(browser, site.url)
    ann.log_in()
    page = ann.page
    assert page.url == site.url
    page.fill("#message textarea", "through the proxy")
    page.keyboard.press("Enter")
    page.wait_for_selector(".stop-reply:not([disabled])")
    said, sizes = "() => document.querySelector('.bot')?.innerText.length ?? 0", set[int]()
    while page.locator(".stop-reply:not([disabled])").count():
        sizes.add(page.evaluate(said))
        page.wait_for_timeout(50)
    assert len(sizes) > 5, "the reply is seen as it grows"
    page.reload()
    ann.arrive()
    page.get_by_text("through the proxy").first.wait_for()
    page.locator("#account a").click()
    page.get_by_role("heading", name="ann").wait_for()
    assert page.url == f"{site.url}account"
    page.get_by_label("Name of a new key").fill("laptop")
    page.get_by_role("button", name="Create").click()
    assert page.inner_text("#key").startswith("lmapps-")
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url(f"{site.url}login")
    assert ann.context.cookies() == [], "none is left behind, at whatever path"
    assert ann.faults == []
    ann.context.close()


@pytest.mark.long
def test_a_file_is_uploaded_and_an_export_downloaded_through_it(
    browser: Any, site: Site, tmp_path: Path
) -> None:
    ann = Visitor(browser, site.url)
    ann.log_in()
    turns = [{"id": "1", "parent": None, "role": "user", "content": "brought along",
              "author": "person"}]  # fmt: skip
    kept = {"lmapps": "conversation", "title": "Of before", "leaf": "1", "turns": turns}
    (tmp_path / "kept.json").write_text(json.dumps(kept))
    ann.page.set_input_files("input[type=file]", str(tmp_path / "kept.json"))
    ann.page.get_by_text("brought along").first.wait_for()
    ann.page.get_by_text("This conversation").first.click()
    ann.page.get_by_role("button", name="Export").click()
    with ann.page.expect_download() as download:
        ann.page.locator("#exported a").first.click()
    assert "brought along" in Path(download.value.path()).read_text()
    assert ann.faults == []
    ann.context.close()


@pytest.mark.long
def test_the_api_streams_through_it_piece_by_piece(
    site: Site, wait_until: Callable[..., None]
) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 40}
    headers, times = {"Authorization": f"Bearer {site.key}"}, list[float]()
    address = f"{site.url}v1/chat/completions"
    with httpx.stream("POST", address, json=body, headers=headers, timeout=60) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if '"content"' in line:
                times.append(time.monotonic())
    assert len(times) > 20 and times[-1] - times[0] > 0.02 * 20, "not all at once at the end"
    name = answer.headers["x-request-id"]
    wait_until(lambda: f"request={name}" in site.lmapps.log.read_text())  # one name in both logs


@pytest.mark.long
def test_addresses_for_machines_and_other_names_are_kept_in(site: Site) -> None:
    assert httpx.get(f"{site.url}health").json()["status"] == "ok", "this machine may ask"
    other = httpx.get(site.url, headers={"Host": "evil.example"})
    assert other.status_code == 421
    foreign = {"Origin": "https://evil.example", "Authorization": f"Bearer {site.key}"}
    assert httpx.post(f"{site.url}v1/chat/completions", headers=foreign).status_code == 403
    without = httpx.get(site.url.rstrip("/"), follow_redirects=True)
    assert without.status_code == 401 and str(without.url).startswith(site.url.rstrip("/"))
