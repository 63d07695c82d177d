"""OWNER/NAME of the Hub -> its folder, by a process that may go out where this one does not.

The Hub's client goes out for a whole process or not at all, and a server's stays in: nothing leaves
the machine that nobody asked for. What somebody did ask for is fetched by another process
(`python -m lmapps.pull.apart NAME FOLDER LICENCE` tells its progress as lines of JSON).
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from lmapps.errors import DownloadError, LmappsError
from lmapps.pull.hub import fetch_folder
from lmapps.pull.known import OnProgress, Progress
from lmapps.sentence import Sentence

OFFLINE = "HF_HUB_OFFLINE"
GIVEN = os.environ.get(OFFLINE)
"""What whoever started this program set; None = nothing."""
PROGRAM = [sys.executable, "-m", "lmapps.pull.apart"]
LOOK_SECONDS = 0.2
"""So soon it is noticed that whoever wanted the model has left."""


def stay_inside() -> None:
    """From now on this process, and those it starts, ask the Hub for nothing; what a person set
    stands."""
    if GIVEN is not None:
        return
    from huggingface_hub import constants

    os.environ[OFFLINE] = "1"
    constants.HF_HUB_OFFLINE = True  # it was read when the client was imported


def fetch_apart(name: str, folder: Path, licence: str, on_progress: OnProgress) -> None:
    """`fetch_folder` in a process of its own, which goes out unless a person forbade it.

    Raises `DownloadError` with the reason, whatever it is.
    """
    process = subprocess.Popen(
        [*PROGRAM, name, str(folder), licence], env=_environment(), bufsize=0,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    progress = Progress("downloading", 0, 0)
    error = DownloadError("{name} cannot be downloaded: see the log of the server", name=name)
    try:
        with selectors.DefaultSelector() as waiting:
            waiting.register(process.stdout, selectors.EVENT_READ)
            while True:
                on_progress(progress)
                if not waiting.select(LOOK_SECONDS):
                    continue
                told = process.stdout.readline()
                if not told.endswith(b"\n"):  # it has ended
                    break
                news = json.loads(told)
                if template := news.get("error"):
                    error = DownloadError(Sentence(template, **news["values"]))
                else:
                    progress = Progress(**news)
        if process.wait():
            raise error
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _environment() -> dict[str, str]:
    """As this program was started, so far as it is about going out."""
    rest = {name: value for name, value in os.environ.items() if name != OFFLINE}
    return rest if GIVEN is None else {**rest, OFFLINE: GIVEN}


def main() -> int:
    name, folder, licence = sys.argv[1:]

    def tell(news: dict[str, object]) -> None:
        print(json.dumps(news, default=str), flush=True)

    try:
        fetch_folder(name, Path(folder), licence, lambda progress: tell(asdict(progress)))
    except LmappsError as error:
        told = error.args[0]
        sentence = told if isinstance(told, Sentence) else Sentence(told)
        tell({"error": sentence.template, "values": sentence.values})
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
