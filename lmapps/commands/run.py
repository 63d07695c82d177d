"""Command line -> a plugin's reply: `lmapps run NAME --field VALUE ...`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from lmapps.commands.decoding import add_decoding, decoding_of
from lmapps.decoding import Decoding
from lmapps.discovery import discover
from lmapps.errors import FieldError
from lmapps.fields import Field
from lmapps.plugin import Plugin
from lmapps.text.documents import read_document
from lmapps.text.readers import READERS

MODEL_HELP = (
    "a checkpoint's folder or name, hf:OWNER/NAME on the Hub, or the URL of another server's API "
    "(default: default)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plugin", help="a plugin's name; see `lmapps plugins`")
    parser.add_argument("--checkpoint", default="default", help=MODEL_HELP)
    parser.add_argument(
        "fields", nargs=argparse.REMAINDER, metavar="--FIELD VALUE",
        help="the plugin's fields (`lmapps run NAME --help` lists them); @FILE reads a file, and "
        "@@ begins a text with @",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    plugin = discover().get(args.plugin)
    given = field_parser(plugin, args.checkpoint).parse_args(args.fields)
    values = {
        field.name: read(field, words)
        for field in plugin.fields
        if (words := getattr(given, f"field_{field.name}")) is not None
    }
    decoding = decoding_of(given, plugin.decoding)
    plugin.validate(values)
    answer = explanation if given.explain else reply
    print(asyncio.run(answer(plugin, given.checkpoint, values, decoding)))
    return 0


def field_parser(plugin: Plugin, checkpoint: str) -> argparse.ArgumentParser:
    """Options for a plugin's fields and for decoding."""
    parser = argparse.ArgumentParser(
        prog=f"lmapps run {plugin.name}",
        description=plugin.help,
        epilog="@FILE as a value is the text of the file, @- that of the standard input; a value "
        "that begins with @ itself is written with two, @@alice.",
    )
    parser.add_argument("--checkpoint", default=checkpoint, help=MODEL_HELP)
    parser.add_argument(
        "--explain", action="store_true", help="print what the model would be given, and stop"
    )
    for field in plugin.fields:
        default = "" if field.required else f" (default: {field.default!r})"
        about = f"{field.help or field.label}; {field.type.wanted()}{default}"
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            dest=f"field_{field.name}",
            metavar=field.name.upper(),
            required=field.required,
            nargs="*" if field.type.repeats else None,
            help=about.replace("%", "%%"),
        )
    taken = {f"--{field.name}".replace("_", "-") for field in plugin.fields}
    add_decoding(parser, without=taken)
    return parser


def read(field: Field, words: str | list[str]) -> Any:
    """The words given for a field -> a value for it; `@FILE` is the text of a file."""
    if isinstance(words, list):
        return [text_of(word) for word in words]
    return field.type.of_word(text_of(words))


def text_of(word: str) -> str:
    """A word as given, or the text of a file: `@article.pdf`, and `@-` the standard input.

    A word that begins with an @ of its own has two: `@@alice` is `@alice`.
    """
    if not word.startswith("@") or word.startswith("@@"):
        return word.removeprefix("@")
    if word == "@-":
        return sys.stdin.read()
    file = Path(word[1:]).expanduser()
    if file.suffix.lower() in READERS:
        return read_document(file)
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise FieldError(f"cannot read the file {word[1:]!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise FieldError(f"the file {word[1:]!r} is not UTF-8 text: convert it first") from None


async def reply(plugin: Plugin, model: str, values: dict[str, Any], decoding: Decoding) -> str:
    """Run the plugin on a model of its own; what the person should know goes to stderr."""
    from lmapps.engine.application import Application, Done, Notice, Progress
    from lmapps.engine.backends.source import open_backend, source_of

    with closing(open_backend(source_of(model))) as backend:
        async for event in Application(plugin, backend).events(values, decoding):
            match event:
                case Notice(text):
                    print(text, file=sys.stderr)
                case Progress(done, total):
                    print(f"read {done} of {total} parts", file=sys.stderr)
                case Done(text):
                    return text
    raise AssertionError("events end in Done")


async def explanation(
    plugin: Plugin, model: str, values: dict[str, Any], decoding: Decoding
) -> str:
    """The rendered prompt, each of its tokens, and the decoding, as lines."""
    from lmapps.engine.application import Application
    from lmapps.engine.backends.source import open_backend, source_of

    with closing(open_backend(source_of(model))) as backend:
        seen = await Application(plugin, backend).explain(values, decoding)
        several = f", the first of {seen.prompts} prompts side by side" if seen.prompts > 1 else ""
        lines = [
            seen.text,
            "",
            f"{len(seen.tokens)} tokens of a context of {backend.context}{several}",
            f"decoding: {seen.settings}",
            f"template: {seen.template}",
            "",
            f"{'id':>7}  token (* = a control token; + = training counts it)",
        ]
        for token in seen.tokens:
            marks = ("*" if token.control else "") + ("+" if token.counted else "")
            lines.append(f"{token.id:>7}  {token.text!r} {marks}".rstrip())
    return "\n".join(lines)
