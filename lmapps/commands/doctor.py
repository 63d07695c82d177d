"""Command line -> what this machine has, what will be used, and what to do: `lmapps doctor`."""

from __future__ import annotations

import argparse
from itertools import chain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", default="default", help="a folder or name (default)")
    parser.add_argument("--database", default="", help="the database of `lmapps serve`, if another")
    parser.add_argument("--port", type=int, default=7860, help="the port of `lmapps serve` (7860)")


def main(args: argparse.Namespace) -> int:
    """Prints a line for each thing: "!" before what cannot work, "-" before what could be better,
    and below it what to do. Exit code 1 where something cannot work."""
    from lmapps.doctor.data import look_at_data
    from lmapps.doctor.machine import look_at_machine
    from lmapps.doctor.serving import look_at_serving
    from lmapps.doctor.software import look_at_software
    from lmapps.server.settings import ServeSettings

    fatal = False
    for finding in chain(
        look_at_machine(),
        look_at_software(),
        look_at_data(args.checkpoint, args.database),
        look_at_serving(ServeSettings(port=args.port)),
    ):
        fatal = fatal or finding.fatal
        print(finding, flush=True)
    return 1 if fatal else 0
