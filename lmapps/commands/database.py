"""Command line -> a copy of the database, or one put back: `lmapps database`."""

from __future__ import annotations

import argparse
from pathlib import Path

from lmapps.server.configured import add_settings, settings_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, help in (
        ("backup", "write a copy of the database to a file; the server may go on meanwhile"),
        ("restore", "put a backup in the database's place; stop the server first"),
    ):
        action = actions.add_parser(name, help=help, description=help)
        action.add_argument("file", metavar="FILE", type=Path)
        add_settings(action, only=["database"])


def main(args: argparse.Namespace) -> int:
    from lmapps.server.store.backup import back_up, restore
    from lmapps.server.store.database import Database

    where = settings_of(args).database
    if args.action == "backup":
        database = Database(where, as_it_is=True)  # a backup is made before what is new changes it
        back_up(database, args.file)
        database.close()
        print(f"wrote {args.file}")
    else:
        place, kept = restore(args.file, where)
        print(f"{args.file} is in {place} now" + (f"; what was there is in {kept}" * bool(kept)))
    return 0
