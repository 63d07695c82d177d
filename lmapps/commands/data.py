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
