"""Real processes as an operator starts them: lmapps, nginx, PostgreSQL, each on a free port."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser.conftest import browser  # noqa: F401
from tests.conftest import missing
from tests.server.conftest import postgres, postgres_programs, postgres_url  # noqa: F401

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 120
LMAPPS = [sys.executable, "-m", "lmapps"]
SLOW = """
import sys, time
from lmapps.engine.slots import Slots
from lmapps.model.checkpoint import Checkpoint
decode, load = Slots.decode, Checkpoint.load

def slow(slots):
    time.sleep(0.02)
    return decode(slots)

def endless(*words, **named):
    checkpoint = load(*words, **named)
    checkpoint.tokenizer.end_ids = frozenset()
    return checkpoint

Slots.decode, Checkpoint.load = slow, endless
from lmapps.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
"""lmapps whose steps take 20 ms at least and whose replies have the length that was asked for, so
that something is under way whenever something is killed."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Program:
    """A process with its port; what it says is in `log`."""

    def __init__(self, name: str, folder: Path, command: list[str], port: int, **env: str) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self.log, self._command = folder / f"{name}.log", command
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("LMAPPS_")}
        self._env |= {"LMAPPS_HOME": str(folder / name), "OMP_NUM_THREADS": "1", **env}
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=log, cwd=ROOT, env=self._env
            )

    def wait(self, path: str = "/health") -> None:
        """Until it answers."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self.process.poll() is None and time.monotonic() < deadline, self.said()
            try:
                httpx.get(self.url + path, timeout=5)
                return
            except httpx.TransportError:
                time.sleep(0.05)

    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")[-3000:]

    def kill(self, how: int = signal.SIGKILL) -> None:
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(60)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Program]]:
    """`programs("page", command, port)` starts one; all of them end with the module."""
    folder, started = tmp_path_factory.mktemp("programs"), list[Program]()

    def start(name: str, command: list[str], port: int, **env: str) -> Program:
        started.append(Program(name, folder, command, port, **env))
        return started[-1]

    yield start
    for program in reversed(started):
        program.kill(signal.SIGKILL)


@pytest.fixture(scope="module")
def nginx(programs: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Program]:
    """`nginx(name, config, changes)`: Debian's nginx with a file of deploy/, in which nothing is
    changed but the words in `changes`, each of which must be there, and the port."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(program).exists():
        missing("nginx is not installed: `apt-get install nginx-light` for these tests")

    def start(name: str, config: str, changes: dict[str, str]) -> Program:
        folder, port = tmp_path_factory.mktemp(name), free_port()
        text = (ROOT / "deploy" / config).read_text()
        listen = {"listen 80;": f"listen 127.0.0.1:{port};", "lm.example.org;": "localhost;"}
        for before, after in (listen | changes).items():
            assert before in text, f"{config} has no {before!r} any more"
            text = text.replace(before, after)
        (folder / "site.conf").write_text(text)
        (folder / "nginx.conf").write_text(
            f"daemon off; pid {folder}/pid; error_log stderr; worker_processes 1;\n"
            "events { worker_connections 1024; }\nhttp {\naccess_log off;\n"
            + "".join(
                f"{kind}_temp_path {folder}/{kind};\n"
                for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            + f"include {folder}/site.conf;\n}}\n"
        )
        command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf")]
        running: Program = programs(name, command, port)
        running.wait("/nothing")
        return running

    return start


@pytest.fixture(scope="session")
def tiny_folder(
    tiny_checkpoint: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_checkpoint("transformer").save(folder)
    return folder
