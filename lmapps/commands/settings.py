"""Command line -> the server's settings as they are, with what each means: `lmapps settings`."""

from __future__ import annotations

import argparse
import re

from lmapps.server.configured import add_settings, documented, settings_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)


def main(args: argparse.Namespace) -> int:
    text = documented(settings_of(args))
    print(re.sub(r"(://[^:@/\s]*:)[^@\s]*@", r"\1***@", text), end="")  # a database's password
    return 0
