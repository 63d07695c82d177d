"""Command line -> the plugins as tools, on standard input and output: `lmapps mcp`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", default="default", help="a folder or name (default)")


def main(args: argparse.Namespace) -> int:
    from lmapps.discovery import Library
    from lmapps.engine.engine import Engine
    from lmapps.model.checkpoint import Checkpoint
    from lmapps.paths import find_checkpoint
    from lmapps.server.api.tools import tools_server

    library = Library(patience=1.0)
    with (
        Engine(Checkpoint.load(find_checkpoint(args.checkpoint))) as engine,
        library.watched(lambda sentence: print(sentence, file=sys.stderr, flush=True)),
    ):
        asyncio.run(answer(tools_server(library.found, engine)))
    return 0


async def answer(server: Any) -> None:
    """Serve until the client goes away."""
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (messages, replies):
        await server.run(messages, replies, server.create_initialization_options())
