"""A file that a person gives -> its text: .txt, .md, .html, .pdf and .docx, within limits.

What comes in may be broken or hostile. Every limit is checked before the work that it bounds; what
is more than plain text is read by `readers.py` in a process of its own, bounded in memory and time
and killed when it is late; and whatever goes wrong becomes one sentence.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from lmapps.errors import Busy, DataError
from lmapps.sentence import Sentence
from lmapps.text import readers
from lmapps.text.readers import READERS, UNREADABLE, Bounds, Unreadable

MAX_BYTES = 10_000_000
"""The largest file."""
MAX_UNPACKED = 100_000_000
MAX_PAGES = 500
MAX_CHARACTERS = 5_000_000
"""The longest text, about 1,500 pages."""
SECONDS = 30
"""How long a file may take to be read."""
MEMORY = 1 << 30
"""Bytes of address space that reading one may take."""
AT_ONCE = 2
"""So many are read at the same time; the others wait."""

PACKAGES = {".html": "markdownify", ".htm": "markdownify", ".pdf": "pypdf", ".docx": "docx"}
"""What reads a format; those of plain text are read here."""
ENVIRONMENT = ("PATH", "HOME", "PYTHONPATH", "PYTHONUSERBASE", "LD_LIBRARY_PATH", "SYSTEMROOT")
"""What the process is told of ours: where packages are, and no secret."""
_TURN = threading.BoundedSemaphore(AT_ONCE)


def read_document(file: str | Path) -> str:
    """The text of a file, by its suffix.

    Raises `DataError` for a suffix that is not known, a file that is missing, empty, too large,
    encrypted, broken or not UTF-8, one that takes too much time or memory, and where the package
    that reads its format is not installed; `Busy` where many others are being read.
    """
    file = Path(file)
    suffix = file.suffix.lower()
    if suffix not in READERS:
        raise DataError(
            "{file} is not of a kind that can be read: {kinds}", file=file, kinds=", ".join(READERS)
        )
    package = PACKAGES.get(suffix)
    if package and find_spec(package) is None:
        raise DataError(
            "reading {suffix} files needs the package {package}: install it with pip install "
            "'lmapps[documents]'",
            suffix=file.suffix,
            package=package,
        )
    bounds = Bounds(MAX_UNPACKED, MAX_PAGES, MAX_CHARACTERS)
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > MAX_BYTES:
                raise Unreadable(
                    "has {size:,} bytes, more than {most:,}: give a part", size=size, most=MAX_BYTES
                )
            if package:
                text = _in_a_process(stream, suffix, bounds)
            else:
                text = readers.text_of(stream, suffix, bounds)
    except Unreadable as error:
        wrong = Sentence(error.template, **error.values)
        raise DataError("{file} {wrong}", file=file, wrong=wrong) from None
    except OSError as error:
        reason = error.strerror or error
        raise DataError("cannot read the file {file}: {reason}", file=file, reason=reason) from None
    if not text.strip():
        raise DataError("{file} has no text in it", file=file)
    return text


def _in_a_process(stream: BinaryIO, suffix: str, bounds: Bounds) -> str:
    """The text that the process writes. Raises `Unreadable` with its sentence, or ours."""
    numbers = (bounds.unpacked, bounds.pages, bounds.characters, MEMORY, SECONDS)
    words = [sys.executable, "-P", readers.__file__, suffix, *map(str, numbers)]
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    if not _TURN.acquire(timeout=SECONDS):
        raise Busy(Sentence("many files are being read already: try again in a moment"))
    try:
        with TemporaryFile() as written:
            done = subprocess.run(
                words, stdin=stream, stdout=written, stderr=subprocess.DEVNULL, cwd="/",
                env=environment, timeout=SECONDS, start_new_session=True, check=False,
            )  # fmt: skip
            written.seek(0)
            told = written.read(bounds.written).decode(errors="replace")
    except subprocess.TimeoutExpired:
        raise Unreadable(
            "takes more than {seconds} seconds to read: it is refused", seconds=SECONDS
        ) from None
    finally:
        _TURN.release()
    if done.returncode == UNREADABLE:
        template, values = json.loads(told)
        raise Unreadable(template, **values)
    if done.returncode:  # killed by one of its limits, or torn down by what it read
        raise Unreadable(
            "takes too much time or memory to read, or breaks its reader (exit code {code}): it is "
            "refused", code=done.returncode,
        )  # fmt: skip
    return told
