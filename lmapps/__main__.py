"""Command line in, exit code out: finds the command, shows errors as one sentence.

Only the module of the command given is imported, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from lmapps import __version__
from lmapps.errors import LmappsError
from lmapps.machine import limit_threads

COMMANDS = {
    "serve": "start the page and the API",
    "settings": "print the settings of `lmapps serve` as they are, as a settings file",
    "train": "train a model on text, or fine-tune one on plugins' examples",
    "runs": "training runs: list, watch, pause, resume, stop",
    "evaluate": "score checkpoints: loss, accuracy, perplexity, bits per byte, plugins' metrics",
    "generate": "continue a prompt",
    "run": "run a plugin",
    "checkpoints": "list them, pull an open model, write a copy in another precision or as GGUF",
    "data": "look at text: documents, sizes, and a vocabulary report",
    "plugins": "list the plugins and what failed; write a new one; switch them off and on",
    "database": "write a backup of conversations and accounts, or put one back",
    "users": "people who may use the server: add, list, remove, password, role, limits",
    "keys": "keys for the API: create, list, limits, revoke",
    "mcp": "offer the plugins as tools of the Model Context Protocol",
    "doctor": "say what this machine has and what will be used",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0, 2 for input that can be corrected, 1 for other failures."""
    is_program = words is None  # else called by one, which may have threads
    words = list(sys.argv[1:] if words is None else words)
    limit_threads()
    try:
        args = build_parser(words).parse_args(words)
        args.is_program = is_program
        return int(command_module(args.command).main(args))
    except LmappsError as error:
        print(f"lmapps: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("lmapps: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has gone
        sys.stderr.close()
        return 1


def build_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser, with the options of the command that the words name and of no other."""
    parser = argparse.ArgumentParser(
        prog="lmapps",
        description="Train a language model, serve it, and turn it into applications.",
    )
    parser.add_argument("--version", action="version", version=f"lmapps {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    given = next((word for word in words if not word.startswith("-")), None)
    for name, help in COMMANDS.items():
        command = commands.add_parser(name, help=help, description=help)
        if name == given:
            command_module(name).add_arguments(command)
    return parser


def command_module(name: str) -> ModuleType:
    """The module of a command: `add_arguments(parser)` and `main(args)`."""
    return importlib.import_module(f"lmapps.commands.{name}")


if __name__ == "__main__":
    sys.exit(main())
