"""Plugins that fail while they are used, among many that work: the server and the others go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmapps.__main__ import main
from lmapps.discovery import Found, Library
from lmapps.errors import PluginError
from lmapps.loading import load
from lmapps.plugin import Example
from lmapps.server.page.plugins import plugins_page
from lmapps.steps import MOST_STEPS

HEAD = "from lmapps import Decoding, plugin\nSHORT = Decoding(max_new_tokens=2)\n"
FAULTS = {
    "prompt": ("@plugin\ndef prompt(text: str) -> str:\n    return 1 / 0\n", "line 5"),
    "ending": (
        "def end(reply):\n    return reply.nothing\n\n"
        "@plugin(decoding=SHORT, finish=end)\ndef ending(text: str) -> str:\n    return text\n",
        "line 4",
    ),
    "endless": (
        "@plugin(decoding=SHORT)\ndef endless(text: str):\n    while True:\n        yield text\n",
        f"asked {MOST_STEPS} times",
    ),
    "silent": ("@plugin\ndef silent(text: str):\n    if text == 0:\n        yield\n", "no prompt"),
    "number": ("@plugin\ndef number(text: str) -> int:\n    return 7\n", "returned '7'"),
    "midway": (
        "@plugin(decoding=SHORT)\ndef midway(text: str):\n    yield [text]\n    1 / 0\n",
        "ZeroDivisionError",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    for name, (text, _) in FAULTS.items():
        (folder / f"{name}.py").write_text(HEAD + text)
    for number in range(200):
        text = f"@plugin(decoding=SHORT)\ndef good{number}(text: str) -> str:\n    return text\n"
        (folder / f"good{number}.py").write_text(HEAD + text)
    (folder / "broken.py").write_text("def f(:\n")
    return folder


@pytest.fixture(scope="module")
def served(
    serve: Callable[..., Any], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A server with two hundred plugins, faulty ones and a broken one, and a home of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMAPPS_HOME", str(tmp_path_factory.mktemp("home")))
        with serve(Library([folder]).found, 0.0) as running:
            yield running


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_in_the_answer_the_log_the_plugins_tab_and_the_list(
    served: Any,
    name: str,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level(logging.ERROR, "lmapps"):
        answer = httpx.post(f"{served.url}/apps/{name}", json={"text": "x"}, timeout=60)
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert name in message and FAULTS[name][1] in message and "Traceback" not in message
    assert f"{name}.py, line " in caplog.text
    page = plugins_page(Found()).replace("\\", "")
    assert main(["plugins"]) == 0
    for told in (page.partition("Failed in use")[2], capsys.readouterr().out):
        (line,) = [line for line in told.splitlines() if f"{name}.py, line " in line]
        assert f"plugin '{name}'" in line and "Correct" in line
    other = httpx.post(f"{served.url}/apps/good7", json={"text": "x"}, timeout=60)
    assert other.status_code == 200
    served.wait_until_idle()


def test_two_hundred_plugins_are_on_the_page_and_in_the_description(served: Any) -> None:
    assert len(httpx.get(f"{served.url}/apps").json()) == 200 + len(FAULTS)
    paths = httpx.get(f"{served.url}/openapi.json").json()["paths"]
    assert "/apps/good199" in paths
    assert httpx.get(served.url, timeout=60).status_code == 200


def test_the_plugins_tab_names_file_line_reason_and_fix(folder: Path) -> None:
    page = plugins_page(Library([folder]).found)
    (row,) = [line for line in page.splitlines() if "broken.py" in line]
    assert row.startswith("- **broken.py, line 1**: not Python")
    assert "Correct that line" in row and str(folder.name) in row.replace("\\", "")


def test_a_metric_that_fails_says_so_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "scored.py"
    metric = "@scored.metric\ndef wrong(reply, reference, fields):\n    return 'high'\n"
    file.write_text(HEAD + "@plugin\ndef scored(text: str) -> str:\n    return text\n" + metric)
    with pytest.raises(PluginError, match="a metric of plugin 'scored' failed: ValueError"):
        load(file).scores("reply", Example({}, "reply", "reply"))


def test_what_a_visitor_typed_is_in_their_answer_and_nowhere_that_others_see(
    serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path / "home"))
    bodies = {"counts": "str(int(topic))", "lists": "[topic]"}
    for name, body in bodies.items():
        text = f"@plugin(decoding=SHORT)\ndef {name}(topic: str) -> str:\n    return {body}\n"
        (tmp_path / f"{name}.py").write_text(HEAD + text)
    with serve(Library([tmp_path]).found, 0.0) as served:
        for name in bodies:
            answer = httpx.post(f"{served.url}/apps/{name}", json={"topic": "my password"})
            assert "my password" in answer.json()["error"]["message"]
    page = plugins_page(Found()).replace("\\", "")
    kept = (tmp_path / "home" / "plugin-failures.json").read_text()
    for told in (page, kept):
        assert "password" not in told and "counts.py" in told and "lists.py" in told
        assert "plugin 'counts' failed: ValueError" in told
