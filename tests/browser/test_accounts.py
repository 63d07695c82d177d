"""Two people in two browsers on one server: each logs in and has what is theirs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lmapps.discovery import discover
from lmapps.server.accounts.users import Users
from tests.browser.hands import button, device, fill, open_tab, seen, tabs

pytestmark = pytest.mark.browser
PASSWORD = "correct horse"


class Person:
    """Somebody at a browser of their own."""

    def __init__(self, browser: Any, url: str, width: int = 1280) -> None:
        self.context = browser.new_context(**device(width))
        self.page, self.url = self.context.new_page(), url

    def log_in(self, name: str, password: str = PASSWORD) -> None:
        self.page.goto(self.url)
        self.page.fill("input[name=name]", name)
        self.page.fill("input[name=password]", password)
        self.page.get_by_role("button", name="Log in").click()

    def arrive(self) -> None:
        self.page.wait_for_selector("#send:not([disabled])")
        self.page.wait_for_selector("#account a")

    def say(self, text: str) -> None:
        self.page.fill("#message textarea", text)
        self.page.keyboard.press("Enter")
        self.page.wait_for_function(
            """text => [...document.querySelectorAll('#conversations label')].some(
                label => label.innerText.trim() === text)""",
            arg=text, timeout=30_000,
        )  # fmt: skip

    def listed(self) -> list[str]:
        return [
            text.strip() for text in self.page.locator("#conversations label").all_inner_texts()
        ]

    def tabs(self) -> list[str]:
        return tabs(self.page)


@pytest.fixture(scope="module")
def shared(serve: Callable[..., Any]) -> Iterator[Any]:
    made = list[Users]()

    def prepare(store: Any) -> None:
        made.append(Users(store.database))
        for name in ("ann", "bob"):
            made[0].add(name, PASSWORD)

    with serve(discover(), 0.0, prepare=prepare, tokens_a_day=100_000) as running:
        running.users = made[0]
        yield running


def test_two_people_log_in_and_see_what_is_theirs(browser: Any, shared: Any) -> None:
    ann, bob = Person(browser, shared.url), Person(browser, shared.url, width=390)
    ann.log_in("ann", "wrong one")
    ann.page.get_by_text("The name or the password is not right.").wait_for()
    assert ann.page.input_value("input[name=name]") == "ann"
    ann.log_in("ann")
    ann.arrive()
    bob.log_in("bob")
    bob.arrive()
    assert {"Plugins", "Summarize"} < {*ann.tabs()}
    assert "Plugins" not in bob.tabs() and "Summarize" in bob.tabs()
    ann.say("a secret of Ann's")
    bob.say("a secret of Bob's")
    assert ann.listed() == ["a secret of Ann's"] and bob.listed() == ["a secret of Bob's"]

    ann.page.reload()
    ann.arrive()
    ann.page.get_by_text("a secret of Ann's").first.wait_for()
    assert ann.listed() == ["a secret of Ann's"], "the session goes on"

    # The same browser, another person.
    ann.page.locator("#account a").click()
    ann.page.get_by_role("heading", name="ann").wait_for()
    assert "/ 100,000" in ann.page.inner_text("main")
    ann.page.get_by_role("button", name="Log out").click()
    ann.log_in("bob")
    ann.arrive()
    ann.page.wait_for_function("document.querySelectorAll('#conversations label').length === 1")
    assert ann.listed() == ["a secret of Bob's"]
    assert "Ann's" not in ann.page.content()
    for person in (ann, bob):
        person.context.close()


def test_a_key_is_made_and_revoked_on_the_account_page(browser: Any, shared: Any) -> None:
    ann = Person(browser, shared.url)
    ann.log_in("ann")
    ann.arrive()
    ann.page.goto(f"{shared.url}/account")
    ann.page.get_by_label("Name of a new key").fill("laptop")
    ann.page.get_by_role("button", name="Create").click()
    key = ann.page.inner_text("#key")
    headers = {"Authorization": f"Bearer {key}"}
    api = ann.page.context.browser.new_context()
    assert api.request.get(f"{shared.url}/v1/models", headers=headers).status == 200
    ann.page.get_by_role("button", name="Revoke").click()
    ann.page.wait_for_selector("#key", state="detached")
    assert api.request.get(f"{shared.url}/v1/models", headers=headers).status == 401
    ann.context.close()
    api.close()


def test_who_is_over_the_quota_reads_so_on_the_page_and_nobody_else(
    browser: Any, shared: Any
) -> None:
    people = ann, bob = Person(browser, shared.url), Person(browser, shared.url)
    for person, name in zip(people, ("ann", "bob"), strict=True):
        person.log_in(name)
        person.arrive()
    bob.say("The first is answered")
    bob.page.wait_for_selector("#send:not([disabled])")
    shared.users.set_limits("bob", tokens_a_day=1)
    fill(bob.page, "#message", "The second is not")
    bob.page.keyboard.press("Enter")
    told = seen(bob.page, ".prose.status").filter(has_text="⚠")
    told.wait_for()
    assert re.fullmatch(
        r"⚠ You have had \d+ tokens today, of 1 that are allowed a day: try again after midnight "
        r"UTC, in (\d+ h )?\d+ min\.", told.inner_text().strip(),
    )  # fmt: skip
    assert bob.page.locator("#send").is_enabled()
    open_tab(bob.page, "Summarize")
    fill(bob.page, "#field-text", "The cat sat on the mat.")
    button(bob.page, "Write").click()
    told.filter(has_text="of 1 that are allowed a day").wait_for()
    ann.say("Ann is answered")
    ann.page.wait_for_selector("#send:not([disabled])")
    assert ann.page.locator("#chat-chat .bot.message").count() == 1
    shared.users.set_limits("bob", tokens_a_day=None)
    for person in people:
        person.context.close()
