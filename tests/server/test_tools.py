"""Plugins as tools of the Model Context Protocol, asked by the official package's own client."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmapps.discovery import Found, discover
from lmapps.engine.engine import Engine
from lmapps.model.checkpoint import Checkpoint
from lmapps.server.api.tools import tools_server
from tests.conftest import brought

mcp = brought("mcp")


def asked(
    checkpoint: Checkpoint, found: Found, name: str, arguments: dict[str, Any]
) -> tuple[list[Any], Any]:
    """The tools, and what came of a call."""

    async def ask(engine: Engine) -> tuple[list[Any], Any]:
        async with mcp.Client(tools_server(found, engine)) as client:
            return (await client.list_tools()).tools, await client.call_tool(name, arguments)

    with Engine(checkpoint) as engine:
        return asyncio.run(ask(engine))


def test_each_plugin_is_a_tool_with_the_schema_of_its_form(
    tiny_checkpoint: Callable[[str], Checkpoint],
) -> None:
    found = discover()
    tools, result = asked(tiny_checkpoint("gru"), found, "news", {"headline": "Rain falls"})
    assert {tool.name for tool in tools} == found.plugins.keys()
    (news,) = [tool for tool in tools if tool.name == "news"]
    assert news.title == "News" and news.description.startswith("Write an article")
    assert news.input_schema["required"] == ["headline"]
    assert not result.is_error and result.content[0].text


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("news", {}, "news needs the field 'headline'"),
        ("news", {"headline": "x", "style": "rhyme"}, "style must be one of 'news report'"),
        ("summarize", {"text": "  "}, "text is empty"),
        ("nothing", {}, "there is no plugin 'nothing'"),
    ],
)
def test_what_is_wrong_is_the_tools_answer(
    name: str, arguments: dict[str, Any], reason: str, tiny_checkpoint: Callable[[str], Checkpoint]
) -> None:
    _, result = asked(tiny_checkpoint("gru"), discover(), name, arguments)
    assert result.is_error and reason in result.content[0].text


@pytest.mark.long
def test_the_command_speaks_the_protocol_on_its_standard_streams(
    tiny_checkpoint: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    """A plugin that prints does not disturb it."""
    tiny_checkpoint("gru").save(tmp_path / "model")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "loud.py").write_text(
        "from lmapps import Decoding, plugin\n\nprint('loaded')\n\n\n"
        "@plugin(decoding=Decoding(max_new_tokens=4))\n"
        "def loud(text: str) -> str:\n    print('asked')\n    return text\n"
    )

    async def ask() -> tuple[set[str], Any]:
        words = ["-m", "lmapps", "mcp", "--checkpoint", str(tmp_path / "model")]
        environment = {**os.environ, "LMAPPS_HOME": str(tmp_path)}
        start = mcp.StdioServerParameters(command=sys.executable, args=words, env=environment)
        async with mcp.Client(mcp.stdio_client(start)) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            return names, await client.call_tool("loud", {"text": "Hello"})

    names, result = asyncio.run(ask())
    assert {"loud", "chat"} <= names and not result.is_error
