"""Command line -> what is in some text, and how a vocabulary fits it: `lmapps data`."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmapps.text.tokenizer import Tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", help="files or folders of text")
    parser.add_argument(
        "--recipe",
        help="TOML file that says how text is cleaned, deduplicated and split into --out",
    )
    parser.add_argument(
        "--feedback", metavar="PLUGIN",
        help="write the replies of a chat that people corrected or liked, as rows to train on, "
        "into --out",
    )  # fmt: skip
    parser.add_argument("--database", default="", help="with --feedback, as for `lmapps serve`")
    parser.add_argument(
        "--held-out", type=float,
        help="with --feedback, the share of conversations kept apart (0.2)",
    )  # fmt: skip
    parser.add_argument("--tokenizer", default="bpe", help="bpe, word or character")
    parser.add_argument("--vocab-size", type=int, default=4096, help="tokens in the vocabulary")
    parser.add_argument("--checkpoint", help="report on this checkpoint's vocabulary instead")
    parser.add_argument("--out", help="also write the token corpus into this folder")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


def main(args: argparse.Namespace) -> int:
    from lmapps.paths import find_checkpoint
    from lmapps.text.corpus import build_corpus
    from lmapps.text.sources import data_files, read_documents
    from lmapps.text.tokenizer import Tokenizer

    if args.recipe:
        return _build(args)
    if args.feedback:
        return _feedback(args)
    files = data_files(args.paths)
    if args.checkpoint:
        tokenizer = Tokenizer.load(find_checkpoint(args.checkpoint))
    else:
        texts = (document.text for document in read_documents(files))
        tokenizer = Tokenizer.train(texts, args.tokenizer, args.vocab_size)
    report = describe(files, tokenizer)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print(_lines(report))
    if args.out:
        corpus = build_corpus(args.paths, tokenizer, Path(args.out))
        tokenizer.save(corpus.folder)
        print(f"token corpus in {corpus.folder}")
    return 0


def _build(args: argparse.Namespace) -> int:
    from lmapps.errors import SettingsError
    from lmapps.text.build import build_data
    from lmapps.text.recipe import read_data_recipe

    if args.paths or not args.out:
        raise SettingsError("with --recipe, files are named in the recipe, and --out is needed")
    manifest = build_data(read_data_recipe(Path(args.recipe)), Path(args.out))
    if args.json:
        print(json.dumps(manifest, indent=2))
        return 0
    for name, tally in manifest["sources"].items():
        print(f"{name}: " + ", ".join(f"{key} {value:,}" for key, value in tally.items()))
    sizes = (f"{name} {split['documents']:,}" for name, split in manifest["splits"].items())
    print(f"documents in {args.out}: {', '.join(sizes)}")
    return 0


def _feedback(args: argparse.Namespace) -> int:
    from lmapps.errors import DataError, SettingsError
    from lmapps.server.store.feedback import HELD_OUT, feedback
    from lmapps.server.store.store import Store

    if args.paths or not args.out:
        raise SettingsError("with --feedback, rows come from the database, and --out is needed")
    share = HELD_OUT if args.held_out is None else args.held_out
    found = feedback(Store(args.database), args.feedback, share=share)
    if not found.train and not found.held_out:
        raise DataError(
            f"nobody has corrected or liked a reply of {args.feedback!r} yet: do so in its tab"
        )
    if not found.train:
        raise DataError(
            "all that was corrected or liked is held out: do so in one more conversation, or give "
            "--held-out 0"
        )
    train, held_out = found.write(Path(args.out))
    rows = {"train": len(found.train), "held_out": len(found.held_out), "left_out": found.left_out}
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{rows['train']} rows in {train}, {rows['held_out']} held out in {held_out}")
    if found.left_out:
        print(f"{found.left_out} left out: a reply before them was disliked")
    print(
        f"train on them with `lmapps train --apps {args.feedback} --data {args.feedback}={train}`"
    )
    return 0


def describe(files: Sequence[Path], tokenizer: Tokenizer) -> dict[str, Any]:
    """Counts of documents and bytes, and how the vocabulary fits them."""
    from lmapps.text.sources import read_documents

    documents = itertools.count()
    texts = (document.text for document in read_documents(files) if next(documents) >= 0)
    fit = tokenizer.report(texts).as_dict()
    return {"files": len(files), "documents": next(documents), **fit}


def _lines(report: dict[str, Any]) -> str:
    return (
        f"{report['documents']:,} documents in {report['files']} files, "
        f"{report['bytes']:,} bytes\n"
        f"{report['kind']} vocabulary of {report['vocab_size']:,}: "
        f"{report['tokens']:,} tokens, {report['bytes_per_token']:.2f} bytes per token, "
        f"{report['unknown_rate']:.3%} unknown"
    )
