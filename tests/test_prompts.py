"""A checkpoint knows the wording that it was trained on, and says what has changed since."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from lmapps import Bounds, Messages, Passage, plugin
from lmapps.discovery import discover
from lmapps.errors import StorageError
from lmapps.failures import remembered
from lmapps.model.checkpoint import Checkpoint
from lmapps.plugin import Plugin
from lmapps.prompts import FILE, changed_prompts, probes, prompt_change, record_prompts


def letter(wording: str = "Write a {tone} letter", kind: str = "about") -> Plugin:
    @plugin(examples=[["an example"]])
    def letter(
        text: Passage,
        tone: Literal["warm", "formal"] = "formal",
        parts: list[Literal["thanks", "a date"]] = (),  # type: ignore[assignment]
        sign: bool = False,
        lines: Annotated[int, Bounds(1, 9)] = 4,
        note: str | None = None,
    ) -> Any:
        start = wording.format(tone=tone) + "".join(f" with {part}" for part in parts)
        signed = ", signed" if sign else ""
        yield f"{start}{signed} {kind}{f' ({note})' if note else ''}, {lines} lines.\n\n{text}"

    return letter


def recorded(folder: Path, *plugins: Plugin, start: str | Path = "") -> Path:
    folder.mkdir(exist_ok=True)
    record_prompts(folder, plugins, "0" * 64, start)
    return folder


def test_the_same_wording_is_no_change_and_an_untrained_plugin_has_none(tmp_path: Path) -> None:
    folder = recorded(tmp_path, letter())
    assert prompt_change(letter(), folder) == ""
    assert prompt_change(discover().plugins["news"], folder) is None
    assert prompt_change(letter(), tmp_path / "nowhere") is None
    assert prompt_change(letter(), None) is None


def test_a_changed_wording_is_shown_as_a_difference(tmp_path: Path) -> None:
    folder = recorded(tmp_path, letter())
    change = prompt_change(letter("Please write a {tone} letter"), folder)
    assert change is not None
    assert "-user: Write a formal letter about, 4 lines.\n" in change
    assert "+user: Please write a formal letter about, 4 lines." in change
    assert all(line[:1] in "+-" for line in change.split("\n")), "what is the same is left out"


@pytest.mark.parametrize(
    ("then", "now", "shown"),
    [
        ("x", "x {tone}", "warm"),
        ("{tone}", "{tone:.4}", "-user: formal about"),
    ],
)
def test_each_choice_of_the_form_is_tried(then: str, now: str, shown: str, tmp_path: Path) -> None:
    change = prompt_change(letter(now), recorded(tmp_path, letter(then)))
    assert change is not None and shown in change
    tried = [values for values, _ in probes(letter())]
    assert {probe["tone"] for probe in tried} == {"warm", "formal"}
    assert {probe["sign"] for probe in tried} == {True, False}
    assert {probe["lines"] for probe in tried} == {1, 4, 9}
    assert [] in [probe["parts"] for probe in tried]
    assert {probe["note"] for probe in tried} == {None, "", "a text"}


def test_a_field_that_is_gone_or_a_prompt_that_fails_is_a_change(tmp_path: Path) -> None:
    folder = recorded(tmp_path, letter())

    def other(text: str) -> str:
        return text

    other.__name__ = "letter"
    assert "+(no prompt: letter has no field 'tone'" in (prompt_change(plugin(other), folder) or "")
    assert "KeyError" in (prompt_change(letter("{nothing}"), folder) or "")


def test_what_a_checkpoint_knew_before_is_kept_and_another_template_is_a_change(
    tmp_path: Path,
) -> None:
    first = recorded(tmp_path / "first", letter())
    second = recorded(tmp_path / "second", discover().plugins["chat"], start=first)
    assert prompt_change(letter(), second) == ""
    assert prompt_change(discover().plugins["chat"], second) == ""
    (second / "chat_template.jinja").write_text("{{ messages }}")
    assert "chat_template.jinja is not the one" in (prompt_change(letter(), second) or "")


def test_every_plugin_that_comes_along_can_be_recorded(tmp_path: Path) -> None:
    plugins = list(discover().plugins.values())
    folder = recorded(tmp_path, *plugins)
    assert all(prompt_change(app, folder) == "" for app in plugins)
    assert (folder / FILE).stat().st_size < 20_000


def test_a_broken_record_is_none_and_a_closed_folder_one_sentence(tmp_path: Path) -> None:
    for content in ("{", "[]", '{"plugins": 3}', "\xff"):
        (tmp_path / FILE).write_bytes(content.encode("latin-1"))
        assert prompt_change(letter(), tmp_path) is None
    with pytest.raises(StorageError, match=r"cannot write .*prompts\.json"):
        record_prompts(tmp_path / "nowhere", [letter()], "")


def test_training_records_the_prompts_and_the_template(
    tiny_checkpoint: Callable[[str], Checkpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lmapps.training.settings import TrainSettings
    from lmapps.training.start import run_training

    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path))
    (tmp_path / "plugins").mkdir()
    file = tmp_path / "plugins" / "greet.py"
    file.write_text(
        "from lmapps import plugin\n\n\n@plugin\ndef greet(name: str) -> str:\n"
        '    return f"Greet {name}."\n\n\n@greet.dataset\ndef own():\n'
        '    for name in "abcdef":\n        yield {"name": name}, "Hello."\n'
    )
    tiny_checkpoint("gru").save(tmp_path / "start")
    small: dict[str, Any] = {
        "steps": 1, "evaluations": 1, "batch_tokens": 128, "micro_batch_tokens": 128,
    }  # fmt: skip
    start, out = str(tmp_path / "start"), str(tmp_path / "out")
    run_training(TrainSettings(apps=("greet",), start_from=start, out=out, **small))
    trained = Checkpoint.load(tmp_path / "out")
    record = json.loads((tmp_path / "out" / FILE).read_text())
    assert record["template"] == trained.template.hash
    assert record["plugins"]["greet"][0]["prompt"] == [
        {"role": "user", "content": "Greet a."}
    ]  # fmt: skip
    assert prompt_change(discover().plugins["greet"], trained.folder) == ""
    file.write_text(file.read_text().replace("Greet {", "Say hello to {"))
    change = prompt_change(discover().plugins["greet"], trained.folder)
    assert change == "-user: Greet a.\n+user: Say hello to a."


def test_a_changed_prompt_is_marked_in_the_list_and_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lmapps.__main__ import main
    from lmapps.discovery import Found
    from lmapps.server.page.plugins import plugins_page

    found = Found()
    for app in (letter("Now `{tone}`\n" + "`" * 9), talk):
        found.add(app, "letter.py")
    folder = recorded(tmp_path / "trained", letter(), talk)
    page = plugins_page(found, checkpoint=folder)
    assert "### letter: its prompt has changed since" in page and "talk: its prompt" not in page
    assert "-user: Write a formal letter about, 4 lines." in page
    assert page.count("`" * 8) == 2, "what a prompt says does not end the block"
    assert "has changed" not in plugins_page(found, checkpoint=tmp_path)
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path))
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "letter.py").write_text(
        "from lmapps import plugin\n\n\n@plugin\ndef letter(text: str) -> str:\n    return text\n"
    )
    assert main(["plugins", "--checkpoint", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.count("its prompt has changed since") == 1 and "+(no prompt: letter has no" in out


def test_a_prompt_function_without_end_holds_nobody_up(tmp_path: Path) -> None:
    import threading

    ended = threading.Event()

    def endless(text: str) -> str:
        assert ended.wait(20)
        return text

    endless.__name__ = "letter"
    folder = recorded(tmp_path, letter())
    (tmp_path / FILE).write_text(
        '{"template": "", "plugins": {"letter": [{"fields": {"text": "x"}, "prompt": []}]}}'
    )
    app = plugin(endless)
    changed = changed_prompts([app], folder)
    assert changed == changed_prompts([app], folder) == {"letter": "(no prompt within a second)"}
    looks = [thread for thread in threading.enumerate() if thread.name == "prompts of letter"]
    assert len(looks) == 1, "each version is compared once"
    ended.set()


def test_a_prompt_function_that_spins_is_ended(tmp_path: Path) -> None:
    import threading

    def spins(text: str) -> str:
        while True:
            pass

    spins.__name__ = "letter"
    folder = recorded(tmp_path, letter())
    (tmp_path / FILE).write_text(
        '{"template": "", "plugins": {"letter": [{"fields": {"text": "x"}, "prompt": []}]}}'
    )
    assert changed_prompts([plugin(spins)], folder) == {"letter": "(no prompt within a second)"}
    for thread in threading.enumerate():
        if thread.name == "prompts of letter":
            thread.join(20)
            assert not thread.is_alive()


def test_a_plugin_is_compared_again_when_it_or_the_checkpoint_has_changed(tmp_path: Path) -> None:
    calls: list[str] = []

    @plugin
    def echo(text: str) -> str:
        calls.append(text)
        return f"{len(calls) > 1} {text}"

    folder = recorded(tmp_path / "one", echo)
    assert changed_prompts([echo], folder) and changed_prompts([echo], folder)
    assert len(calls) == 2, "once when it was recorded, once when it was compared"
    recorded(folder, echo)
    assert changed_prompts([echo], folder) == {} and len(calls) == 4
    assert changed_prompts([letter()], folder) == {}
    assert changed_prompts([echo], recorded(tmp_path / "two", echo)) == {} and len(calls) == 6


def dated(day: str, tone: Literal["warm", "sad"] = "warm", note: str | None = None) -> str:
    if note == "":
        raise ValueError("a note is nothing or a text")
    return f"A {tone} word for {date.fromisoformat(day):%A}{note or ''}."


def test_a_plugin_that_reads_its_texts_is_recorded_with_real_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path / "home"))
    by_rows = plugin(examples=[["2026-11-24"]])(dated)
    by_its_own, by_nothing = plugin(dated), plugin(dated)

    @by_its_own.dataset
    def own() -> Any:
        yield {"day": "2026-11-23", "note": " off"}, "Hello."

    for app, day in ((by_rows, "Tuesday"), (by_its_own, "Monday off")):
        prompts = [str(asked) for _, asked in probes(app)]
        assert any(f"A warm word for {day}." in prompt for prompt in prompts), prompts
        assert any(f"A sad word for {day}." in prompt for prompt in prompts), prompts
        assert prompt_change(app, recorded(tmp_path, app)) == ""
    assert prompt_change(by_nothing, recorded(tmp_path, by_nothing)) is None
    assert remembered() == [], "nobody used it"


def test_a_data_set_that_fails_leaves_the_made_up_values() -> None:
    @plugin
    def echo(text: str) -> str:
        return text

    @echo.dataset
    def own() -> Any:
        raise ValueError("no file")
        yield

    assert [values for values, _ in probes(echo)] == [{"text": "a text"}]


@plugin
def talk(messages: Messages, persona: str = "") -> Messages:
    return [{"role": "system", "content": persona}, *messages] if persona else messages


def test_a_system_prompt_is_part_of_the_wording(tmp_path: Path) -> None:
    folder = recorded(tmp_path, talk)

    def other(messages: Messages, persona: str = "") -> Messages:
        return [{"role": "system", "content": f"Be {persona}"}, *messages] if persona else messages

    other.__name__ = "talk"
    assert prompt_change(plugin(other), folder) == "-system: a text\n+system: Be a text"
