"""Command line -> the plugins found, and those that failed and why: `lmapps plugins`."""

from __future__ import annotations

import argparse

from lmapps.discovery import discover
from lmapps.paths import plugin_folders


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: it lists everything."""


def main(args: argparse.Namespace) -> int:
    found = discover()
    for name, plugin in found.plugins.items():
        fields = ", ".join(field.name for field in plugin.fields)
        print(f"{name:12} {plugin.help.splitlines()[0] if plugin.help else ''}")
        print(f"{'':12} fields: {fields}; file: {found.sources[name]}")
    for failure in found.failures:
        print(f"not loaded   {failure}")
    print(f"looked in: {', '.join(map(str, plugin_folders()))}")
    return 0
