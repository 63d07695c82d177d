"""What went wrong in a plugin's code -> `Failure`s; those in use are remembered in the data folder.

A plugin that does not load is known to whoever looks. One that fails while it is used fails in a
server, while the person who looks may be at the command line: so the last failure of each file is
written down, and forgotten when the file has changed.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmapps.paths import home

FILE = "plugin-failures.json"
MOST = 50
"""Files whose last failure is remembered."""
_writing = threading.Lock()


@dataclass(frozen=True)
class Failure:
    """Where a plugin could not be used, why, and what to do."""

    file: str
    line: int | None
    reason: str
    fix: str
    details: str = ""
    """What the exception says, which may quote what a person typed: for that person and the log."""

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" if self.line else self.file
        return f"{place}: {self.told}. {self.fix}"

    @property
    def told(self) -> str:
        """The reason with its details."""
        return f"{self.reason}: {self.details}" if self.details else self.reason


def remember(failure: Failure) -> None:
    """Keep the last failure of a file, without its details, since everybody may see it.

    That it cannot be kept is no reason to fail once more.
    """
    with _writing, suppress(OSError):
        values = {name: value for name, value in asdict(failure).items() if name != "details"}
        kept = {**_stored(), failure.file: {**values, "when": time.time()}}
        latest = dict(sorted(kept.items(), key=lambda item: item[1]["when"])[-MOST:])
        target = home() / FILE
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{FILE}.{os.getpid()}")
        temporary.write_text(json.dumps(latest, indent=2, ensure_ascii=False), encoding="utf-8")
        os.replace(temporary, target)


def remembered() -> list[Failure]:
    """The last failure of each file that is as it was then, the newest first."""
    newest = sorted(_stored().values(), key=lambda values: -values["when"])
    return [
        Failure(values["file"], values["line"], values["reason"], values["fix"])
        for values in newest
        if _is_as_it_was(Path(values["file"]), values["when"])
    ]


def _is_as_it_was(file: Path, when: float) -> bool:
    try:
        return file.stat().st_mtime <= when
    except OSError:
        return False


def _stored() -> dict[str, dict[str, Any]]:
    try:
        stored = json.loads((home() / FILE).read_text(encoding="utf-8"))
        return {name: values for name, values in stored.items() if _is_whole(values)}
    except (OSError, ValueError, AttributeError):
        return {}


def _is_whole(values: object) -> bool:
    return isinstance(values, dict) and {"file", "line", "reason", "fix", "when"} <= values.keys()
