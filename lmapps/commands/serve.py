"""Command line -> a running server: `lmapps serve`."""

from __future__ import annotations

import argparse
from dataclasses import fields

from lmapps.server.settings import ServeSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    start = ServeSettings()
    helps = {
        "checkpoint": "a checkpoint folder, or the name of one",
        "host": "address to listen on; 0.0.0.0 = every network",
        "port": "port to listen on",
        "slots": "requests that run at once",
        "queue": "requests that may wait before others are refused",
        "database": "SQLAlchemy URL for conversations; '' = lmapps.db in the data folder",
        "weights": "precision of the model: float32, bfloat16 or int8 (smaller is faster)",
    }
    for field in fields(ServeSettings):
        default = getattr(start, field.name)
        help = helps[field.name] + (f" (default: {default})" if default != "" else "")
        parser.add_argument(f"--{field.name}", type=type(default), default=default, help=help)


def main(args: argparse.Namespace) -> int:
    settings = ServeSettings(**{f.name: getattr(args, f.name) for f in fields(ServeSettings)})
    from lmapps.server.serve import serve

    serve(settings)
    return 0
