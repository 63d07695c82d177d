"""Command line -> the plugins as tools, on standard input and output: `lmapps mcp`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import closing
from typing import Any

from lmapps.commands.run import MODEL_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", default="default", help=MODEL_HELP)


def main(args: argparse.Namespace) -> int:
    from lmapps.discovery import Library
    from lmapps.engine.backends.source import open_backend, source_of
    from lmapps.server.api.tools import tools_server

    library = Library(patience=1.0)
    with (
        closing(open_backend(source_of(args.checkpoint))) as backend,
        library.watched(lambda sentence: print(sentence, file=sys.stderr, flush=True)),
    ):
        asyncio.run(answer(tools_server(library.found, backend)))
    return 0


async def answer(server: Any) -> None:
    """Serve until the client goes away."""
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (messages, replies):
        await server.run(messages, replies, server.create_initialization_options())
