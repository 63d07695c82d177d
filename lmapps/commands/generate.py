"""Command line -> the continuation of a prompt: `lmapps generate`."""

from __future__ import annotations

import argparse
import sys

from lmapps.commands.decoding import add_decoding, decoding_of
from lmapps.decoding import Decoding
from lmapps.native import WEIGHTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help='text to continue; "-" reads it from the standard input')
    parser.add_argument("--checkpoint", default="default", help="a folder or name (default)")
    parser.add_argument(
        "--weights", default=WEIGHTS[0], choices=WEIGHTS,
        help="precision of the model; smaller is faster (float32)",
    )  # fmt: skip
    add_decoding(parser)


def main(args: argparse.Namespace) -> int:
    decoding = decoding_of(args, Decoding())
    from lmapps.engine.engine import Engine
    from lmapps.model.checkpoint import Checkpoint
    from lmapps.paths import find_checkpoint

    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    checkpoint = Checkpoint.load(find_checkpoint(args.checkpoint))
    with Engine(checkpoint, slots=1, weights=args.weights) as engine:
        reply = engine.generate(checkpoint.tokenizer.prompt_ids(prompt), decoding)
    print(reply.text)
    return 0
