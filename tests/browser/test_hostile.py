"""HTML and scripts wherever somebody can put them, a plugin or a model too: inert in the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmapps.discovery import discover
from lmapps.paths import plugin_folders
from tests.browser.hands import (
    button,
    choose,
    open_tab,
    seen,
    shown,
    told,
    unfold,
    value,
    wait_for,
)

pytestmark = pytest.mark.browser

HIT = "window.hit=(window.hit||0)+1"
PAYLOADS = [
    f"<script>{HIT}</script>",
    f'<img src=x onerror="{HIT}">',
    f'<svg onload="{HIT}"><animate onbegin="{HIT}" attributeName=x dur=1s></svg>',
    f'<iframe srcdoc="<script>parent.{HIT}</script>"></iframe>',
    f'<details open ontoggle="{HIT}">x</details>',
    f'<a id=bait href="javascript:{HIT}">bait</a>',
    f"[bait](javascript:{HIT})",
    '<form action="http://evil.invalid/"><button id=bait>bait</button></form>',
    '<img src="http://evil.invalid/1.png"> ![x](http://evil.invalid/2.png)',
    '<link rel=stylesheet href="http://evil.invalid/a.css"><meta http-equiv=refresh content="0;url=http://evil.invalid/">',
    f'<math><mtext></form><form><mglyph><style></math><img src onerror="{HIT}">',
    f'<noscript><p title="</noscript><img src=x onerror={HIT}>">',
    f'$\\href{{javascript:{HIT}}}{{bait}}$ and $$\\htmlData{{a=b}}{{x}}$$',
    f'```mermaid\ngraph TD; A["<img src=x onerror={HIT}>"] --> B; click A "javascript:{HIT}"\n```',
    f'```html\n<img src=x onerror="{HIT}">\n```',
    f'"><script>{HIT}</script>\'"><img src=x onerror="{HIT}">',
    f'[bait](data:text/html,<script>parent.{HIT}</script>) [bait]( java&#10;script:{HIT})',
    '<a id=bait href="data:text/html;base64,PHNjcmlwdD4xPC9zY3JpcHQ+">bait</a>',
    f'<svg><a xlink:href="javascript:{HIT}"><text id=bait>bait</text></a><set onend="{HIT}"></svg>',
    f'<input autofocus onfocus="{HIT}"><video><source onerror="{HIT}"></video>',
    f'<object data="javascript:{HIT}"></object><embed src="javascript:{HIT}">',
    '<style>@import "http://evil.invalid/b.css";</style><base href="http://evil.invalid/">',
]  # fmt: skip
PLUGIN = '''"""A plugin from somewhere."""

from lmapps import Decoding, plugin

PAYLOAD = {payload!r}


def ending(reply: str) -> str:
    return PAYLOAD


SHORT = Decoding(max_new_tokens=2)


TITLE = PAYLOAD[: PAYLOAD.index(">") + 1]


@plugin(title=TITLE, finish=ending, decoding=SHORT, examples=[[PAYLOAD]])
def hostile(text: str = PAYLOAD) -> str:
    """{help}

    Args:
        text: {help}
    """
    return "Hi"
'''


TALKING = '''"""A model that writes whatever somebody wants."""

from lmapps import Decoding, Messages, plugin

PAYLOADS = {payloads!r}


def ending(reply: str) -> str:
    return "\\n\\n".join(PAYLOADS)


@plugin(title="Talking", finish=ending, decoding=Decoding(max_new_tokens=2))
def talking(messages: Messages) -> Messages:
    """Talk."""
    return messages
'''


MODEL, RUN = PAYLOADS[1], f'<svg onload="{HIT}">'
"""What somebody calls a checkpoint, and a run: whatever may be the name of a folder."""


def foreign(home: Path, checkpoint: Any) -> None:
    """A model that somebody was given and a run that failed, payloads in all of their words."""
    model, run = (home / "checkpoints" / name for name in (MODEL, RUN))
    for folder in (model, run):
        checkpoint.save(folder)
        (folder / "run").mkdir()
    words = dict.fromkeys(PAYLOADS, 1.5)
    (model / "README.md").write_text("\n\n".join(PAYLOADS))
    (model / "report.json").write_text(json.dumps({"scores": {PAYLOADS[1]: words}}))
    (run / "run" / "settings.json").write_text(json.dumps({"apps": PAYLOADS}))
    (run / "run" / "output.log").write_text("\n".join(PAYLOADS))
    ended = {"state": "failed", "why": " ".join(PAYLOADS)}
    (run / "run" / "ended.json").write_text(json.dumps(ended))
    samples = {payload: payload for payload in PAYLOADS}
    table = [["checkpoint", "subject", *PAYLOADS], [[MODEL, "x", *PAYLOADS], [RUN, "x", *PAYLOADS]]]
    (run / "run" / "compared.json").write_text(json.dumps(table))
    log = [
        {"step": n, "tokens": n, "loss": 1.0, "seconds": 1.0, "share": 0.5, "tokens_per_second": 9,
         "metrics": words, "samples": samples}
        for n in (1, 2)
    ]  # fmt: skip
    for folder in (model, run):
        lines = "".join(json.dumps(entry) + "\n" for entry in log)
        (folder / "run" / "log.jsonl").write_text(lines)


@pytest.fixture(scope="module")
def served(
    serve: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Callable[[str], Any],
) -> Iterator[Any]:
    """The four plugins, one with a payload in every word, and one of a payload's name; models and
    runs of the same kind."""
    from lmapps.engine.backends.source import found_sources

    folder, home = tmp_path_factory.mktemp("plugins"), tmp_path_factory.mktemp("home")
    foreign(home, tiny_checkpoint("gru"))
    payload = " ".join(PAYLOADS[1:6])
    text = PLUGIN.format(payload=payload, help=payload.replace('"', "'"))
    (folder / "hostile.py").write_text(text)
    (folder / "talking.py").write_text(TALKING.format(payloads=PAYLOADS))
    (folder / "<img src=x onerror=window.hit=1>.py").write_text("1 / 0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMAPPS_HOME", str(home))
        found = discover([plugin_folders()[0], folder])
        with serve(found, 0.0, find=found_sources) as running:
            yield running


WALLS = ("script", "iframe", "object", "embed", "base", "[onerror]", "[onload]")


@pytest.fixture(params=["with the policy", "without it"])
def page(browser: Any, served: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A visitor who clicks on whatever is offered, and in whose page nothing may run: each of two
    walls holds alone. Without the page's content policy it is Gradio's sanitizer (DOMPurify), which
    lets forms and pictures of other servers through; those the policy keeps out."""
    has_policy = request.param == "with the policy"
    context = browser.new_context(accept_downloads=True, bypass_csp=not has_policy)
    page = context.new_page()
    outside = list[str]()
    page.on("request", lambda r: None if is_ours(r.url, served) else outside.append(r.url))
    page.on("requestfailed", lambda r: outside.remove(r.url) if is_refused(r) else None)
    page.on("dialog", lambda dialog: dialog.dismiss())
    page.goto(served.url)
    page.wait_for_selector("#send:not([disabled])")
    yield page
    page.evaluate(
        """(all) => document.querySelectorAll(all).forEach(
            one => /bait/.test(one.textContent) && one.click?.())""",
        "#bait, a" if has_policy else "a",
    )
    page.wait_for_timeout(300)
    frames = [frame.evaluate("window.hit || 0") for frame in page.frames]
    assert frames == [0] * len(frames)
    assert page.url.startswith(served.url), "nobody was led away"
    assert not (has_policy and outside), "nothing was asked of another server"
    context.close()
    served.wait_until_idle()


def is_refused(request: Any) -> bool:
    """By the page's content policy."""
    return "csp" in (request.failure or "").lower()


def is_ours(url: str, served: Any) -> bool:
    return url.startswith((served.url, "data:", "blob:", "about:"))


def test_in_a_conversation_that_somebody_made_and_in_its_title(page: Any, tmp_path: Path) -> None:
    turns, parent = [], None
    for number, payload in enumerate(PAYLOADS):
        for role in ("user", "assistant"):
            name = f"{role}{number}"
            turns.append({"id": name, "parent": parent, "role": role, "content": payload,
                          "author": "person" if role == "user" else "model"})  # fmt: skip
            parent = name
    made = {"lmapps": "conversation", "title": " ".join(PAYLOADS), "leaf": parent, "turns": turns}
    file = tmp_path / "<img src=x onerror=window.hit=1>.json"
    file.write_text(json.dumps(made))
    page.locator("input[type=file][accept='.json']").set_input_files(file)
    last = page.locator("#chat-chat .bot.message").nth(len(PAYLOADS) - 1)
    last.wait_for(state="attached")  # of some nothing is left to see
    page.wait_for_timeout(500)
    assert page.locator("#conversations img, #conversations script, #conversations a").count() == 0
    page.get_by_text("This conversation").locator("visible=true").click()
    button(page, "Export").click()
    page.locator("#exported a").first.wait_for()


def test_in_what_a_person_sends_and_what_is_wrong_with_it(page: Any) -> None:
    page.fill("#message textarea", "\n\n".join(PAYLOADS)[:300])
    button(page, "Send").click()
    page.locator("#chat-chat .user.message").first.wait_for()
    page.fill("#message textarea", PAYLOADS[1] * 200)  # too long for the context: an error
    button(page, "Send").click()
    page.locator(".status", has_text="⚠").locator("visible=true").first.wait_for()


def test_in_a_file_and_its_name(page: Any, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Summarize").click()
    bad = tmp_path / "<img src=x onerror=window.hit=1>.txt"
    bad.write_bytes(b"\0")
    drop = page.locator("#drop-text input[type=file]")
    drop.set_input_files(bad)
    page.get_by_text("binary file").first.wait_for()
    good = tmp_path / "a.html"
    good.write_text("<p>x</p>" + "\n".join(PAYLOADS))
    drop.set_input_files(good)
    page.wait_for_function("document.querySelector('#field-text textarea').value.length > 5")


def test_in_every_word_of_a_plugin_and_in_the_list_of_plugins(page: Any) -> None:
    tabs = page.locator("button[role=tab]:visible")
    (hostile,) = (tab for tab in tabs.all() if "<img" in tab.inner_text())
    hostile.click()
    page.locator("#field-text textarea:visible").wait_for()
    assert "<img" in page.locator("#field-text:visible").inner_text(), "the label is there as text"
    page.locator(".overflow-menu > button").locator("visible=true").click()
    page.locator(".overflow-dropdown button", has_text="Plugins").click()
    page.locator("#plugins-page", has_text="ZeroDivisionError").wait_for()
    assert page.locator("#plugins-page img, #plugins-page script").count() == 0


def test_in_what_a_model_writes_in_a_form(page: Any) -> None:
    tabs = page.locator("button[role=tab]:visible")
    next(tab for tab in tabs.all() if "<img" in tab.inner_text()).click()
    button(page, "Write").click()
    page.locator("#reply-hostile", has_text="bait").wait_for()
    page.wait_for_timeout(300)


def test_in_what_a_model_writes_in_a_conversation(page: Any) -> None:
    page.get_by_role("tab", name="Talking", exact=True).locator("visible=true").click()
    page.locator("#message textarea:visible").fill("Hi")
    button(page, "Send").click()
    page.locator("#chat-talking .bot.message", has_text="bait").first.wait_for()
    page.wait_for_timeout(500)  # what a picture that is not there would do
    inside = page.locator("#chat-talking .bot.message")
    for wall in WALLS:
        assert inside.locator(wall).count() == 0, wall
    links = inside.locator("a").evaluate_all("links => links.map(one => one.protocol)")
    assert not {"javascript:", "data:"} & {*links}


def inert(page: Any, place: str) -> None:
    """Nothing in it is what somebody else made it to be."""
    page.wait_for_timeout(300)  # what a picture that is not there would do
    for wall in WALLS:
        assert page.locator(place).locator(wall).count() == 0, (place, wall)


def test_in_a_models_name_its_card_its_scores_and_its_log(page: Any) -> None:
    open_tab(page, "Models")
    page.locator("#models label", has_text=MODEL).click()
    told(page, "#model-view", "bait")
    seen(page, "button.label-wrap").filter(has_text="Card").click()
    card = page.locator(".prose", has_text="bait").locator("visible=true")
    card.first.wait_for()
    assert page.locator("#models img, #model-view img").count() == 0
    button(page, "Chat with it").click()
    wait_for(page, lambda: value(page, "#model") == MODEL)
    inert(page, "#about")
    open_tab(page, "Models")
    button(page, "Free its memory").click()
    button(page, "Load").click()
    told(page, "#model-status", "is in memory", 60)
    for place in ("#models", "#model-view", "#model-status", ".prose"):
        inert(page, place)
    button(page, "Free its memory").click()
    button(page, "Load").wait_for()


def test_in_a_runs_name_its_log_its_end_and_what_it_printed(page: Any) -> None:
    open_tab(page, "Training")
    wait_for(page, lambda: bool(seen(page, "#run input").count()))
    choose(page, "#run", f"{RUN} · Failed")
    told(page, "#run-view", "bait")
    unfold(page, "What it printed")
    for place in ("#run", "#run-view", "#run-scores"):
        inert(page, place)
        assert page.locator(place).locator("img").count() == 0
    assert "bait" in shown(page, "#run-scores")


def test_in_what_is_compared_and_in_the_votes(page: Any) -> None:
    open_tab(page, "Compare")
    page.locator("#compare-message textarea").wait_for()
    choose(page, "#compare-plugin", PAYLOADS[1])
    page.locator("#compare-text textarea").wait_for()
    choose(page, "#side-1", MODEL)
    button(page, "Compare").click()
    best = button(page, f"{MODEL} is better")
    best.wait_for(timeout=60_000)
    for number in range(2):
        told(page, f"#compared-{number}", "bait")
        inert(page, f"#compared-{number}")
    best.click()
    told(page, "#compare-told", "Your vote is kept")
    for place in ("#head-0", "#head-1", "#votes"):
        inert(page, place)
        assert page.locator(place).locator("img").count() == 0
    assert MODEL in shown(page, "#votes") and MODEL in shown(page, "#head-1")
