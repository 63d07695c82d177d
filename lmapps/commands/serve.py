"""Command line -> a running server: `lmapps serve`."""

from __future__ import annotations

import argparse
from functools import partial

from lmapps.server.configured import add_settings, settings_of
from lmapps.server.reload import Hangup


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Each option is a setting, which a settings file can hold too (port = 8000) and the "
        "environment (LMAPPS_PORT=8000). The command line goes before the environment, and that "
        "before the file."
    )
    add_settings(parser)


def main(args: argparse.Namespace) -> int:
    hangup = Hangup()  # before anything that takes time: without it the signal ends the process
    settings = settings_of(args)
    from lmapps.server.serve import serve

    serve(settings, partial(settings_of, args), hangup)
    return 0
