"""The example plugins: short, without a fault, and what `lmapps plugins new --like` writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lmapps import load
from lmapps.__main__ import main
from lmapps.commands.plugins import examples
from lmapps.paths import example_folder

NAMES = [file.stem for file in sorted(example_folder().glob("*.py"))]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path))
    return tmp_path


def test_those_that_the_tutorial_promises_are_there() -> None:
    promised = "translate rewrite explain unit_tests extract classify ask story haiku"
    assert set(promised.split()) <= set(examples())


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_has_all_that_a_plugin_can_have(name: str) -> None:
    file = example_folder() / f"{name}.py"
    assert len(file.read_text().splitlines()) < 40
    plugin = load(file)
    assert plugin.name == name and plugin.help and plugin.examples and plugin.metrics
    own = list(plugin.own_examples())
    assert len(own) >= 2
    for example in own:
        *asked, reply = plugin.conversation(example)
        assert asked[-1]["content"].strip() and reply["role"] == "assistant"


def test_the_prompts_say_what_was_filled_in() -> None:
    def example(name: str, *values: object) -> str:
        return str(load(example_folder() / f"{name}.py")(*values))

    assert example("translate", "Hello.", "French") == "Translate into French.\n\nHello."
    assert "in a short tone" in example("rewrite", "Hello.", "short")
    assert "Write 2 pytest tests" in example("unit_tests", "def f(): ...", 2)
    assert "```\nx = 1\n```" in example("explain", " x = 1 ")


def test_of_a_long_document_the_part_like_the_question_is_read() -> None:
    from lmapps import Passage

    text = "Cats sleep a lot. " * 40 + "The key is under the red stone. " + "Dogs bark. " * 60
    ask = load(example_folder() / "ask.py")
    prompt = ask(Passage(text, budget=50), "Where is the key?")
    assert "red stone" in prompt and len(prompt.split()) < 70


def test_a_story_keeps_its_rules_in_front() -> None:
    story = load(example_folder() / "story.py")
    told = story([{"role": "user", "content": "A pier"}], "calm")
    assert told[0]["role"] == "system" and "calm" in told[0]["content"]
    assert told[1:] == [{"role": "user", "content": "A pier"}]


def test_new_writes_each_of_them_under_another_name_with_a_test_that_passes(home: Path) -> None:
    for name in NAMES:
        assert main(["plugins", "new", f"my_{name}", "--like", name]) == 0
        plugin = load(home / "plugins" / f"my_{name}.py")
        assert plugin.name == f"my_{name}" and plugin.title.startswith("My ")
        assert plugin.fields == load(example_folder() / f"{name}.py").fields
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", home / "plugins"]
    said = subprocess.run(tests, cwd=home, capture_output=True, text=True, check=False)
    assert f"{2 * len(NAMES)} passed" in said.stdout, said.stdout + said.stderr


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("my-app", "such as my_app; got 'my-app'"),
        ("print", "hides Python's own print()"),
        ("class", "letters, digits and _; got 'class'"),
        ("_mine", "is not looked at"),
        ("test_mine", "is not looked at"),
        ("chat", "is taken by"),
        ("été", "letters, digits and _"),
        ("../mine", "letters, digits and _"),
    ],
)
def test_a_name_that_cannot_be_is_refused_and_nothing_is_written(
    name: str, reason: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plugins", "new", name]) == 2
    assert reason in capsys.readouterr().err
    assert not list(home.rglob("*.py"))


def test_nothing_that_is_there_is_replaced(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home / "elsewhere"
    assert main(["plugins", "new", "mine", "--folder", str(folder)]) == 0
    assert f"copy it to {home / 'plugins'}" in capsys.readouterr().out
    (folder / "mine.py").write_text("precious")
    assert main(["plugins", "new", "mine", "--folder", str(folder)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (folder / "mine.py").read_text() == "precious"


def test_off_and_on_are_said_and_listed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "off", "news"]) == 0
    assert main(["plugins"]) == 0
    said = capsys.readouterr().out
    assert "news is now off" in said and "news         switched off" in said
    assert main(["run", "news", "--headline", "x"]) == 2
    assert "`lmapps plugins on news`" in capsys.readouterr().err
    assert main(["plugins", "off", "nothing"]) == 2
    assert "there is no plugin 'nothing'" in capsys.readouterr().err
