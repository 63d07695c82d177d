"""Command line -> the continuation of a prompt: `lmapps generate`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import closing

from lmapps.commands.decoding import add_decoding, decoding_of
from lmapps.commands.run import MODEL_HELP
from lmapps.decoding import Decoding
from lmapps.native import WEIGHTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help='text to continue; "-" reads it from the standard input')
    parser.add_argument("--checkpoint", default="default", help=MODEL_HELP)
    parser.add_argument(
        "--weights", default=WEIGHTS[0], choices=WEIGHTS,
        help="precision of the model; smaller is faster (float32)",
    )  # fmt: skip
    add_decoding(parser)


def main(args: argparse.Namespace) -> int:
    decoding = decoding_of(args, Decoding())
    from lmapps.engine.backends.source import Opening, open_backend, source_of

    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    opening = Opening(slots=1, weights=args.weights)
    with closing(open_backend(source_of(args.checkpoint), opening)) as backend:
        print(asyncio.run(backend.complete(backend.read(prompt), decoding)).text)
    return 0
