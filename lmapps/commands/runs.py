"""Command line -> training runs in the checkpoint folders and here: list, pause, resume, stop."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmapps.training.look import Look
    from lmapps.training.runs import Runs

ACTIONS = ("list", "look", "watch", "pause", "resume", "stop")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", default="list", choices=ACTIONS,
        help="pause saves the state and ends the process; resume goes on there in the background; "
        "stop ends the run with its report",
    )  # fmt: skip
    parser.add_argument("name", nargs="?", default="", help="a run, for all but list")
    parser.add_argument("--json", action="store_true", help="with list and look, print JSON")


def main(args: argparse.Namespace) -> int:
    from lmapps.paths import checkpoint_folders
    from lmapps.training.runs import Runs

    runs = Runs([*checkpoint_folders(), Path.cwd()])
    if args.action == "list":
        _list(runs, args.json)
        return 0
    look = runs.look(args.name)
    if args.action == "watch":
        return _watch(runs, args.name)
    if args.action != "look":
        {"pause": runs.pause, "resume": runs.resume, "stop": runs.stop}[args.action](args.name)
        look = runs.look(args.name)
    print(json.dumps(_as_data(look)) if args.json else line_of(look))
    return 0


def line_of(look: Look) -> str:
    """A run in one line."""
    last, left = look.last, look.seconds_left
    parts = [f"{look.name}: {look.state}, {look.share:.0%}"]
    if last:
        parts.append(f"step {last['step']:,}, loss {last['loss']:.3f}")
    if look.is_live and left is not None:
        parts.append(f"about {left / 60:.0f} min left")
    if look.why:
        parts.append(look.why)
    return ", ".join(parts)


def _list(runs: Runs, as_json: bool) -> None:
    looks = [runs.look(name) for name in runs.names()]
    if as_json:
        print(json.dumps([_as_data(look) for look in looks], indent=2))
    elif looks:
        print("\n".join(map(line_of, looks)))
    else:
        print("there are no runs yet: `lmapps train --data FILES --out DIR` starts one")


def _watch(runs: Runs, name: str) -> int:
    """A line whenever there is news, until the run ends."""
    told = ""
    while True:
        look = runs.look(name)
        if line_of(look) != told:
            told = line_of(look)
            print(told, flush=True)
        if not look.is_live:
            return 0
        time.sleep(1)


def _as_data(look: Look) -> dict[str, object]:
    return {
        "name": look.name, "folder": str(look.folder), "state": look.state, "why": look.why,
        "share": look.share, "seconds_left": look.seconds_left, "last": look.last,
    }  # fmt: skip
