"""A chat template and messages -> text and where the replies are in it.

The template that lmapps writes is rendered here. Any other one came with a folder from somewhere,
and is rendered by `foreign.py`, a process that is bounded in memory and ended when it is late.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import subprocess
import sys
import threading
from typing import Any
from weakref import finalize

from lmapps.errors import CheckpointError
from lmapps.text import foreign

SECONDS = 5.0
"""How long one rendering may take; the start of the process is part of the first."""
MEMORY = 512 << 20
"""Bytes of address space of the process."""
MAX_SOURCE = 1_000_000
"""Characters of a template."""

Spans = list[tuple[int, int]]


class Rendering:
    """The process of one template, started when it is first needed. Safe from any thread."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise CheckpointError(
                f"the chat template has {len(source):,} characters, more than {MAX_SOURCE:,}"
            )
        self._source = source
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def render(self, **values: Any) -> tuple[str, Spans]:
        """The text, and the spans of replies where the template marks them.

        Raises `CheckpointError` where the template fails, or takes too long or too much memory.
        """
        with self._turn:
            values = {"tools": None, "documents": None, **values}
            answer = self._ask(json.dumps({"template": self._source, "values": values}))
        if "error" in answer:
            raise CheckpointError(
                f"the checkpoint's chat_template.jinja does not render: {answer['error']}"
            )
        return without_marks(answer["text"])

    def close(self) -> None:
        """End the process. The next rendering starts another one."""
        process, self._process = self._process, None
        if process:
            _end(process)

    def _ask(self, line: str) -> dict[str, str]:
        process = self._running()
        assert process.stdin and process.stdout
        try:
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
            answer = _line_in_time(process)
        except OSError:  # it is gone
            answer = b""
        if answer is None or not answer.endswith(b"\n"):
            self.close()
            why = (
                f"it takes more than {SECONDS:g} seconds"
                if answer is None
                else "it ends its process"
            )
            return {"error": why}
        told: dict[str, str] = json.loads(answer)
        return told

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self._owner = os.getpid()  # after a fork the process belongs to the parent
            self._process = subprocess.Popen(
                [sys.executable, "-P", foreign.__file__, str(MEMORY)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                cwd="/", env=_environment(), start_new_session=True,
            )  # fmt: skip
            finalize(self, _end, self._process)
        return self._process


def without_marks(text: str) -> tuple[str, Spans]:
    """A rendered text without the marks of replies, and the spans that were between them."""
    plain, spans, position, begun = [], Spans(), 0, 0
    for piece in re.split(f"([{foreign.BEGIN}{foreign.END}])", text):
        if piece == foreign.BEGIN:
            begun = position
        elif piece == foreign.END:
            spans.append((begun, position))
        else:
            plain.append(piece)
            position += len(piece)
    return "".join(plain), spans


def _line_in_time(process: subprocess.Popen[bytes]) -> bytes | None:
    """The next line; None where it does not come in time."""
    assert process.stdout
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ)
        if not waiting.select(SECONDS):
            return None
    return process.stdout.readline()  # it is written in one piece, when it is whole


def _environment() -> dict[str, str]:
    """Where packages are, and no secret of this process."""
    from lmapps.text.documents import ENVIRONMENT

    return {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()
