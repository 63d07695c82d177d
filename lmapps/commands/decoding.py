"""Command-line options -> `Decoding`, for the commands that generate."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import fields

from lmapps.decoding import Decoding

_NOT_HERE = ("logit_bias", "logprobs")
"""Settings that only a program has a use for."""
_TYPES = {"float": float, "int": int, "int | None": int, "str | None": str, "tuple[str, ...]": str}


def add_decoding(parser: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    """One option for each setting, but for those in `without`."""
    group = parser.add_argument_group("decoding")
    for field in fields(Decoding):
        if field.name in _NOT_HERE:
            continue
        option = "--" + field.name.replace("_", "-")
        nargs = "+" if field.name == "stop" else None
        kind = _TYPES[str(field.type)]
        if option not in without:
            group.add_argument(option, type=kind, nargs=nargs, default=None)


def decoding_of(args: argparse.Namespace, start: Decoding) -> Decoding:
    """The settings given, over those to start from. Raises `DecodingError`."""
    given = {field.name: getattr(args, field.name, None) for field in fields(Decoding)}
    return start.replace(**{name: value for name, value in given.items() if value is not None})
