"""Command line -> what this machine has, what will be used, and what to do: `lmapps doctor`."""

from __future__ import annotations

import argparse
from itertools import chain

from lmapps.server.configured import add_settings, settings_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The settings are those with which `lmapps serve` would start now: of the settings file, "
        "the environment and this command line."
    )
    add_settings(parser)


def main(args: argparse.Namespace) -> int:
    """Prints a line for each thing: "!" before what cannot work, "-" before what could be better,
    and below it what to do. Exit code 1 where something cannot work."""
    from lmapps.doctor.data import look_at_data
    from lmapps.doctor.machine import look_at_machine
    from lmapps.doctor.serving import look_at_serving, look_at_settings
    from lmapps.doctor.software import look_at_software

    settings, findings = look_at_settings(lambda: settings_of(args))
    fatal = False
    for finding in chain(
        look_at_machine(),
        look_at_software(),
        findings,
        look_at_data(settings.checkpoint, settings.database),
        look_at_serving(settings),
    ):
        fatal = fatal or finding.fatal
        print(finding, flush=True)
    return 1 if fatal else 0
