"""Plugins -> tools of a Model Context Protocol server, through the protocol's official package."""

from __future__ import annotations

from typing import Any

from lmapps import __version__
from lmapps.discovery import Found
from lmapps.engine.application import Application
from lmapps.engine.backends.backend import Backend
from lmapps.errors import LmappsError, SettingsError


def tools_server(found: Found, backend: Backend) -> Any:
    """An `mcp.server.Server`; its tools are the plugins that are there when it is asked.

    Raises `SettingsError` where the package `mcp` is not installed.
    """
    try:
        from mcp import types
        from mcp.server import Server
    except ImportError:
        raise SettingsError(
            "the package mcp is not installed: run `pip install 'lmapps[mcp]'`"
        ) from None

    async def tools(*_: Any) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=name,
                    title=plugin.title,
                    description=plugin.help,
                    input_schema=plugin.input_schema(),
                )
                for name, plugin in found.plugins.items()
            ]
        )

    async def call(_: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        try:
            application = Application(found.get(params.name), backend)
            text, failed = (await application.reply(params.arguments or {})).reply, False
        except LmappsError as error:
            text, failed = error.outward, True
        return types.CallToolResult(content=[types.TextContent(text=text)], is_error=failed)

    return Server("lmapps", version=__version__, on_list_tools=tools, on_call_tool=call)
