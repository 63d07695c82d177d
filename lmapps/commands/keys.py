"""Command line -> API keys of users: `lmapps keys`."""

from __future__ import annotations

import argparse
import time

from lmapps.commands.users import add_limits, limits_of
from lmapps.server.configured import add_settings, settings_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, help in (
        ("create", "make a key for the API; it is printed once and cannot be read again"),
        ("list", "a user's keys by name, and when each was used last"),
        ("limits", "set what one key may have, within what its user may"),
        ("revoke", "let nobody in with a key any more"),
    ):
        action = actions.add_parser(name, help=help, description=help)
        action.add_argument("user", metavar="USER")
        if name != "list":
            action.add_argument("name", metavar="KEY", help="what the key is called")
        if name == "limits":
            add_limits(action, "usual = none but the user's")
        add_settings(action, only=["database"])


def main(args: argparse.Namespace) -> int:
    from lmapps.server.accounts.users import Users
    from lmapps.server.store.database import Database

    database = Database(settings_of(args).database)
    users = Users(database)
    match args.action:
        case "create":
            print(users.add_key(args.user, args.name))
        case "list":
            for key in users.keys(args.user):
                print(f"{key.name:32} made {moment(key.created)}   used {moment(key.used)}")
        case "limits":
            users.set_key_limits(args.user, args.name, **limits_of(args))
            print(f"the limits of the key {args.name} count from now on")
        case "revoke":
            users.revoke(args.user, args.name)
            print(f"the key {args.name} of {args.user} is revoked")
    database.close()
    return 0


def moment(seconds: float | None) -> str:
    """A time for a person."""
    if seconds is None:
        return "never"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
