"""Command line -> people with a name and a password: `lmapps users`."""

from __future__ import annotations

import argparse
import getpass
import sys
import time
from typing import TYPE_CHECKING

from lmapps.errors import InputError
from lmapps.server.configured import add_settings, settings_of

if TYPE_CHECKING:
    from lmapps.server.accounts.users import Users


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, help in (
        ("add", "make an account; the first is an admin's. The password is asked for, or is the "
                "first line of the standard input"),
        ("list", "everybody, with what they have had today"),
        ("remove", "remove an account with its conversations and keys"),
        ("password", "set another password; whoever is logged in with the old one is logged out"),
        ("role", "make somebody a user or an admin, who sees models, training and plugins"),
        ("limits", "set what one user may have, in place of the server's settings"),
    ):  # fmt: skip
        action = actions.add_parser(name, help=help, description=help)
        if name != "list":
            action.add_argument("name", metavar="NAME")
        if name == "add":
            action.add_argument("--role", default=None, help="user or admin")
        if name == "role":
            action.add_argument("role", metavar="ROLE", help="user or admin")
        if name == "remove":
            action.add_argument("--yes", action="store_true", help="do not ask whether it is meant")
        if name == "limits":
            add_limits(action, "usual = the server's setting")
        add_settings(action, only=["database"])


def main(args: argparse.Namespace) -> int:
    from lmapps.server.accounts.users import Users, checked_role
    from lmapps.server.store.database import Database

    database = Database(settings_of(args).database)
    users = Users(database)
    match args.action:
        case "add":
            role = checked_role(args.role) if args.role else None
            is_first = not users.exist
            made = users.add(args.name, read_password(args.name), role)
            print(
                f"{made.name} is there now, as {'an admin' if made.role == 'admin' else 'a user'}"
            )
            if is_first:
                print("From its next start on the server asks everybody to log in.")
        case "list":
            show(users)
        case "remove":
            confirm(args.name, args.yes)
            gone = users.remove(args.name)
            print(f"{args.name} is gone, with {gone} conversation{'s' * (gone != 1)}")
        case "password":
            users.find(args.name)
            users.set_password(args.name, read_password(args.name))
            print(f"{args.name} has another password now, and is logged out everywhere")
        case "role":
            users.set_role(args.name, args.role)
            print(f"{args.name} is {'an admin' if args.role == 'admin' else 'a user'} now")
        case "limits":
            users.set_limits(args.name, **limits_of(args))
            print(f"the limits of {args.name} count from now on")
    database.close()
    return 0


def show(users: Users) -> None:
    """A line for each user."""
    rows, today = users.everybody(), int(time.time() // 86_400)
    if not rows:
        print("There are no users: the server is open to whoever reaches it.")
        return
    print(f"{'name':24} {'role':6} {'since':10} {'tokens today':>14} {'a day':>12} {'a minute':>9}")
    for row in rows:
        since = time.strftime("%Y-%m-%d", time.localtime(row.created))
        tokens = row.tokens if row.day == today else 0
        limits = [told(row.tokens_a_day), told(row.requests_a_minute)]
        print(f"{row.name:24} {row.role:6} {since} {tokens:14,} {limits[0]:>12} {limits[1]:>9}")


def add_limits(parser: argparse.ArgumentParser, usual: str) -> None:
    """The two options of a limit."""
    for limit in ("requests-a-minute", "tokens-a-day"):
        help = f"0 = as many as they like, {usual} (default: as it is)"
        parser.add_argument(f"--{limit}", default=None, metavar="N", help=help)


def limits_of(args: argparse.Namespace) -> dict[str, int | None]:
    """The limits that were given, of which there must be one."""
    names = ("requests_a_minute", "tokens_a_day")
    given = {name: limit_of(word) for name in names if (word := getattr(args, name)) is not None}
    if not given:
        raise InputError("give --requests-a-minute, --tokens-a-day or both")
    return given


def told(limit: int | None) -> str:
    """A limit in a table."""
    return "usual" if limit is None else f"{limit:,}" if limit else "no limit"


def limit_of(word: str) -> int | None:
    """A limit as it is kept. Raises `InputError` for what is none."""
    if word == "usual":
        return None
    if not word.isascii() or not word.isdigit() or int(word) >= 2**31:
        raise InputError(f"a limit is a whole number, or usual, got {word!r}")
    return int(word)


def confirm(name: str, is_meant: bool) -> None:
    """Raises `InputError` where somebody has not said that they mean it."""
    if is_meant:
        return
    if not sys.stdin.isatty():
        raise InputError(f"this removes {name} and all that is theirs: say --yes if it is meant")
    if input(f"Remove {name} and all that is theirs? Write the name again: ") != name:
        raise InputError("nothing is removed")


def read_password(name: str) -> str:
    """From the terminal, twice and unseen, or a line of the standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass(f"Password for {name}: ")
    if getpass.getpass("Once more: ") != password:
        raise InputError("the two passwords differ: nothing is changed")
    return password
