"""Folders -> plugins; what does not load is reported and keeps nobody else from loading."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lmapps import load
from lmapps.discovery import Found, Library, discover
from lmapps.errors import PluginError
from lmapps.switches import switch, switched_off

GOOD = '''"""Echo."""
from lmapps import plugin

@plugin(title="Echo")
def {name}(text: str) -> str:
    """Say it again."""
    return text
'''

BROKEN = {
    "syntax.py": ("def f(:\n", 1, "not Python"),
    "missing.py": ("import os\nimport nowhere_to_be_found\n", 2, "Install nowhere_to_be_found"),
    "crash.py": ("x = 1\n\ny = x / 0\n", 3, "ZeroDivisionError"),
    "exits.py": ("import sys\nsys.exit(3)\n", 2, "SystemExit"),
    "empty.py": ("x = 1\n", None, "there is no plugin in it"),
    "keyword.py": (GOOD.format(name="k").replace("title", "titel"), 4, "titel"),
    "widget.py": (GOOD.format(name="w").replace("text: str", "text: bytes"), 5, "no widget"),
    "unknown.py": (GOOD.format(name="u").replace("text: str", "text: Txt"), 5, "'Txt'"),
    "sampling.py": (
        GOOD.format(name="s").replace("import plugin", "import Decoding, plugin")
        + "Decoding(temperature=9)\n",
        8,
        "temperature must be between 0 and 2, got 9",
    ),
    "builtin.py": (GOOD.format(name="print"), 4, "the name 'print' hides Python's own print()"),
    "hidden.py": (GOOD.format(name="_h"), 4, "begins with an underscore"),
    "taken.py": (GOOD.format(name="good"), 4, "the name 'good' is taken by"),
    "hangs.py": ("import time\n\nwhile True:\n    time.sleep(0.01)\n", None, "after 1 seconds"),
    "utf8.py": (GOOD.format(name="n").encode() + b"# \xff\n", 8, "0xff is no UTF-8"),
    "zeros.py": (b"x = 1\0\n", None, "null bytes"),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_four_plugins_are_found_and_none_fails() -> None:
    found = discover()
    assert {"chat", "news", "code", "summarize"} <= found.plugins.keys()
    assert not found.failures


def test_a_file_dropped_in_is_a_plugin(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(GOOD.format(name="echo"))
    (tmp_path / "_skipped.py").write_text("1 / 0")
    found = discover([tmp_path, tmp_path / "nowhere"])
    assert list(found.plugins) == ["echo"] and not found.failures
    assert found.plugins["echo"].title == "Echo"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with everything that can be wrong, and one good file."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "good.py").write_text(GOOD.format(name="good"))
    for name, (text, _, _) in BROKEN.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "folder.py").mkdir()
    (tmp_path / "elsewhere.py").write_text(GOOD.format(name="elsewhere"))
    (folder / "link.py").symlink_to(tmp_path / "elsewhere.py")
    (folder / "nowhere.py").symlink_to(tmp_path / "nowhere.py")
    return folder


def test_broken_files_are_reported_with_line_and_reason_and_the_rest_loads(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmapps.loading.LIMIT", 1.0)
    before = set(sys.modules)
    found = Library([broken], patience=2).found
    assert list(found.plugins) == ["good"]
    reported = {Path(failure.file).name: failure for failure in found.failures}
    assert reported.keys() == BROKEN.keys() | {"folder.py", "link.py", "nowhere.py"}
    for name, (_, line, reason) in BROKEN.items():
        assert line is None or reported[name].line == line, name
        assert reason in str(reported[name]), name
    assert all(failure.fix and failure.reason for failure in found.failures)
    assert reported["hangs.py"].line in (3, 4)
    assert "a folder" in reported["folder.py"].reason
    assert "outside the plugin folder" in reported["link.py"].reason
    assert "cannot be read" in reported["nowhere.py"].reason or "outside" in str(reported)
    left = {name.split("_")[-1] for name in set(sys.modules) - before if "lmapps_plugin" in name}
    assert left <= {"good", "empty", "builtin", "hidden", "taken", "hangs"}
    assert not list(broken.glob("**/__pycache__")), "nothing is written"


def test_a_file_that_hangs_comes_late_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    (tmp_path / "a_slow.py").write_text(
        f"from pathlib import Path\nwhile not Path({str(tmp_path / 'go')!r}).exists():\n    pass\n"
        + GOOD.format(name="slow")
    )
    (tmp_path / "b_quick.py").write_text(GOOD.format(name="quick"))
    library = Library([tmp_path], patience=0.1)
    assert list(library.found.plugins) == ["quick"]
    (failure,) = library.found.failures
    assert failure.line in (2, 3) and "still loading" in failure.reason
    (tmp_path / "go").touch()
    wait_until(lambda: library.look() and not library.found.failures)
    assert list(library.found.plugins) == ["slow", "quick"]


def test_an_endless_loop_that_is_given_up_does_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmapps.loading.LIMIT", 0.3)
    (tmp_path / "endless.py").write_text("while True:\n    pass\n")
    library = Library([tmp_path], patience=0.5)
    assert "has not finished loading" in library.found.failures[0].reason
    threads = [thread for thread in threading.enumerate() if "endless.py" in thread.name]
    wait_until(lambda: not any(thread.is_alive() for thread in threads))


def test_a_look_loads_only_what_changed(tmp_path: Path, home: Path) -> None:
    (tmp_path / "a.py").write_text(GOOD.format(name="a"))
    (tmp_path / "b.py").write_text(GOOD.format(name="b"))
    library = Library([tmp_path])
    found, a, b = library.found, library.found.plugins["a"], library.found.plugins["b"]
    assert library.look() == [] and found.version == 1
    (tmp_path / "a.py").write_text(GOOD.format(name="a").replace("Echo", "Ohce"))
    assert library.look() == [f"plugin a is loaded again: {tmp_path / 'a.py'}"]
    assert found.plugins["a"] is not a and found.plugins["a"].title == "Ohce"
    assert found.plugins["b"] is b and found.revisions == {"a": 2, "b": 1}


def test_two_edits_in_one_second_of_the_same_length_are_both_seen(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(GOOD.format(name="a"))
    library = Library([tmp_path])
    for title in ("Once", "Onto"):
        file.write_text(GOOD.format(name="a").replace("Echo", title))
        library.look()
        assert library.found.plugins["a"].title == title


def test_a_broken_edit_leaves_the_last_good_version_and_a_deleted_file_goes(
    tmp_path: Path, home: Path
) -> None:
    file = tmp_path / "a.py"
    file.write_text(GOOD.format(name="a"))
    library = Library([tmp_path])
    good = library.found.plugins["a"]
    file.write_text("def f(:\n")
    (sentence,) = library.look()
    assert "a.py, line 1: not Python" in sentence
    assert library.found.plugins["a"] is good and len(library.found.failures) == 1
    file.unlink()
    assert library.look() == ["plugin a is gone"]
    assert not library.found.plugins and not library.found.failures


def test_a_plugin_is_switched_off_and_on_by_name(tmp_path: Path, home: Path) -> None:
    (tmp_path / "a.py").write_text(GOOD.format(name="a"))
    library = Library([tmp_path])
    assert switch("a", on=False) and not switch("a", on=False)
    assert library.look() == ["plugin a is switched off"]
    assert list(library.found.off) == ["a"]
    with pytest.raises(PluginError, match="`lmapps plugins on a`"):
        library.found.get("a")
    switch("a", on=True)
    library.look()
    assert list(library.found.plugins) == ["a"]
    (home / "plugins_off.json").write_text("{")
    assert switched_off() == frozenset()
    for content in ("5", '"good"', '{"good": 1}', "null", "\xff"):  # what is no list is no names
        (home / "plugins_off.json").write_bytes(content.encode("latin-1"))
        assert switched_off() == frozenset(), content
    library.look()
    assert list(library.found.plugins) == ["a"], "a broken switch file switches nothing off"


def test_a_watched_library_says_what_changed(tmp_path: Path, home: Path) -> None:
    library, said = Library([tmp_path]), list[str]()
    with library.watched(said.append):
        (tmp_path / "a.py").write_text(GOOD.format(name="a"))
        wait_until(lambda: bool(said))
    assert said == [f"plugin a is there: {tmp_path / 'a.py'}"]


def test_two_hundred_plugins_are_found(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"p{number}.py").write_text(GOOD.format(name=f"p{number}"))
    found = Library([tmp_path]).found
    assert len(found.plugins) == 200 and not found.failures


def test_load_gives_the_plugin_of_a_file_to_its_test(tmp_path: Path) -> None:
    file = tmp_path / "two.py"
    file.write_text(GOOD.format(name="one"))
    assert load(file)("x") == "x"
    file.write_text(GOOD.format(name="one") + GOOD.format(name="two"))
    assert load(file, "two").name == "two"
    with pytest.raises(PluginError, match="has the plugins one, two: say which, got None"):
        load(file)
    file.write_text("1 / 0\n")
    with pytest.raises(PluginError, match=r"two\.py, line 1: ZeroDivisionError"):
        load(file)


def wait_until(reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_name_that_is_taken_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(GOOD.format(name="same"))
    (tmp_path / "b.py").write_text(GOOD.format(name="same"))
    found = discover([tmp_path])
    assert found.sources["same"].endswith("a.py")
    assert "taken by" in found.failures[0].reason and found.failures[0].file.endswith("b.py")


def test_code_py_does_not_shadow_the_standard_library() -> None:
    discover()
    import code

    assert hasattr(code, "InteractiveConsole")


def test_an_unknown_plugin_names_the_known_ones() -> None:
    with pytest.raises(PluginError, match="there is no plugin 'nope'; known: none"):
        Found().get("nope")


def test_the_users_folder_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path))
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "mine.py").write_text(GOOD.format(name="mine"))
    assert {"mine", "chat"} <= discover().plugins.keys()


def test_a_plugin_with_two_names_in_one_file_is_one_plugin(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(GOOD.format(name="good") + "\nagain = good\n")
    found = discover([tmp_path])
    assert list(found.plugins) == ["good"] and not found.failures


def test_files_that_hang_are_waited_for_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hangs until all have begun, which one after another they never would."""
    folder = tmp_path / "hanging"
    folder.mkdir()
    for number in range(4):
        (folder / f"p{number}.py").write_text(
            f"from pathlib import Path\nplace = Path({str(tmp_path)!r})\n"
            f"(place / 'begun{number}').touch()\n"
            "while len(list(place.glob('begun*'))) < 4:\n    pass\n"
            + GOOD.format(name=f"p{number}")
        )
    found = Library([folder], patience=5).found
    assert list(found.plugins) == ["p0", "p1", "p2", "p3"] and not found.failures


def test_a_look_that_fails_is_said_once_and_the_next_one_goes_on(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, said, looks = Library([tmp_path]), list[str](), list[int]()
    look = library.look

    def broken() -> list[str]:
        looks.append(1)
        if len(looks) < 4:
            raise PermissionError("not yours")
        return look()

    monkeypatch.setattr(library, "look", broken)
    monkeypatch.setattr("lmapps.discovery.LOOK_SECONDS", 0.001)
    with library.watched(said.append):
        (tmp_path / "a.py").write_text(GOOD.format(name="a"))
        wait_until(lambda: len(said) > 1)
    trouble = "the plugin folders cannot be looked at now (PermissionError: not yours)"
    assert said == [trouble, f"plugin a is there: {tmp_path / 'a.py'}"]
