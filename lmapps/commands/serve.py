"""Command line -> a running server: `lmapps serve`."""

from __future__ import annotations

import argparse
from dataclasses import fields

from lmapps.server.settings import ServeSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    start = ServeSettings()
    helps = {
        "checkpoint": "models to serve, the default one first: checkpoint folders or names, as "
        "they are or as NAME=FOLDER",
        "host": "address to listen on; 0.0.0.0 = every network",
        "port": "port to listen on",
        "slots": "requests that run at once",
        "queue": "requests that may wait before others are refused",
        "database": "SQLAlchemy URL for conversations; '' = lmapps.db in the data folder",
        "weights": "precision of the model: float32, bfloat16 or int8 (smaller is faster)",
        "memory": "GiB that loaded models may take together; 0 = half of the machine's memory",
    }
    for field in fields(ServeSettings):
        default = getattr(start, field.name)
        is_several = isinstance(default, tuple)
        shown = " ".join(default) if is_several else default
        parser.add_argument(
            f"--{field.name}",
            type=str if is_several else type(default),
            nargs="+" if is_several else None,
            default=default,
            help=helps[field.name] + (f" (default: {shown})" if shown != "" else ""),
        )


def main(args: argparse.Namespace) -> int:
    given = {field.name: getattr(args, field.name) for field in fields(ServeSettings)}
    settings = ServeSettings(**given | {"checkpoint": tuple(args.checkpoint)})
    from lmapps.server.serve import serve

    serve(settings)
    return 0
