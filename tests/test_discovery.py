"""Folders -> plugins; what does not load is reported and keeps nobody else from loading."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lmapps.discovery import Found, discover
from lmapps.errors import PluginError

GOOD = '''"""Echo."""
from lmapps import plugin

@plugin(title="Echo")
def {name}(text: str) -> str:
    """Say it again."""
    return text
'''

BROKEN = {
    "syntax.py": ("def f(:\n", 1, "not Python"),
    "missing.py": ("import os\nimport nowhere_to_be_found\n", 2, "nowhere_to_be_found"),
    "crash.py": ("x = 1\n\ny = x / 0\n", 3, "ZeroDivisionError"),
    "exits.py": ("import sys\nsys.exit(3)\n", 2, "SystemExit"),
    "empty.py": ("x = 1\n", None, "there is no plugin in it"),
    "keyword.py": (GOOD.format(name="k").replace("title", "titel"), 4, "titel"),
    "widget.py": (GOOD.format(name="w").replace("text: str", "text: bytes"), 5, "no widget"),
}


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


def test_broken_files_are_reported_with_line_and_reason_and_the_rest_loads(tmp_path: Path) -> None:
    for name, (text, _, _) in BROKEN.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "not_utf8.py").write_bytes(b"x = '\xff'\n")
    (tmp_path / "good.py").write_text(GOOD.format(name="good"))
    before = set(sys.modules)
    found = discover([tmp_path])
    assert list(found.plugins) == ["good"]
    reported = {Path(failure.file).name: failure for failure in found.failures}
    assert reported.keys() == BROKEN.keys() | {"not_utf8.py"}
    for name, (_, line, reason) in BROKEN.items():
        assert reported[name].line == line, name
        assert reason in str(reported[name]), name
        assert reported[name].fix
    left = [name for name in set(sys.modules) - before if name.startswith("lmapps_plugin")]
    assert all(name.endswith(("_good", "_empty")) for name in left)


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
