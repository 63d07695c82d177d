"""What a program that nobody has read may try, and that the kernel holds it."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from lmapps.evaluation import sandbox
from lmapps.evaluation.sandbox import Limits, NoSandbox, run_python, why_not

QUICK = Limits(seconds=2)

confined = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@confined
@pytest.mark.parametrize(
    ("program", "reason", "words"),
    [
        ("print(sum(range(10)))", "passed", "45"),
        ("import json, math, re, random, collections\nopen('x', 'w').write('y')", "passed", ""),
        ("import threading\nt = threading.Thread(target=print)\nt.start(); t.join()", "passed", ""),
        ("assert 1 == 2", "exit code 1", "AssertionError"),
        ("import os; os._exit(0)", "ended before its last line", ""),
        ("import sys; sys.exit(0)", "ended before its last line", ""),
        ("while True: pass", "timed out", ""),
        ("import time; time.sleep(60)", "timed out", ""),
        ("import signal\nfor n in range(1, 32):\n  try: signal.signal(n, signal.SIG_IGN)\n"
         "  except OSError: pass\nwhile True: pass", "timed out", ""),
        ("x = bytearray(10**10)", "exit code 1", "MemoryError"),
        ("x = []\nwhile True: x.append(bytearray(10**6))", "exit code 1", "MemoryError"),
        ("open('big', 'wb').write(bytes(10**8))", "exit code 1", "File too large"),
        ("import os\nfor n in range(300): open(str(n), 'w').write('x' * 10**6)", "exit code 1",
         "No space left"),
        ("open('/etc/passwd').read()", "exit code 1", "No such file"),
        ("open('/usr/x', 'w')", "exit code 1", "Read-only file system"),
        ("open('/x', 'w')", "exit code 1", "Read-only file system"),
        ("import socket; socket.socket()", "exit code 1", "Operation not permitted"),
        ("import socket; socket.socketpair()", "exit code 1", "Operation not permitted"),
        ("import ctypes; c = ctypes.CDLL(None, use_errno=True)\n"
         "assert c.unshare(0x10000000) == -1 and c.ptrace(0, 0, 0, 0) == -1\n"
         "assert c.mount(b'tmpfs', b'/work', b'tmpfs', 0, None) == -1", "passed", ""),
        ("import os; assert os.getpid() < 10 and os.getuid() == 1000\n"
         "assert not os.path.exists('/proc') and not os.path.exists('/home')", "passed", ""),
        ("import os; os.kill(1, 9); os.kill(-1, 9)", "passed", ""),
        ("import os; os.kill(os.getpid(), 9)", "signal 9", ""),
    ],
)  # fmt: skip
def test_a_program_ends_as_it_must(program: str, reason: str, words: str) -> None:
    outcome = run_python(program, QUICK if reason == "timed out" else Limits(seconds=30))
    assert outcome.reason == reason, outcome
    assert words in outcome.output
    assert outcome.passed == (reason == "passed")


@confined
@pytest.mark.parametrize(
    "program",
    [
        "import os\nwhile True: os.fork()",
        "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
    ],
)
def test_a_fork_bomb_has_a_handful_of_processes_and_leaves_none(program: str) -> None:
    most = 0

    def watch() -> None:
        nonlocal most
        while not ended.is_set():
            most = max(most, len(processes()) - len(before))
            time.sleep(0.01)

    before, ended = processes(), threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    assert not run_python(program, QUICK).passed
    ended.set()
    watcher.join()
    assert 0 < most <= QUICK.processes + 4, "and the four that hold them"
    assert not processes() - before


def processes() -> set[str]:
    """Programs of a sandbox that run now."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[1:5] == [b"-I", b"-S", b"-B", b"-"] or str(sandbox.CONFINE).encode() in words:
            found.add(folder.name)
    return found


@confined
def test_no_connection_reaches_a_server_of_this_machine(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)"
        assert "not permitted" in run_python(program, QUICK).output
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


@confined
def test_a_file_of_the_person_is_neither_seen_nor_changed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    for program in (f"open({str(secret)!r}).read()", f"open({str(secret)!r}, 'w').write('x')"):
        assert not run_python(program, QUICK).passed
    assert secret.read_text() == "mine"
    assert "mine" not in run_python("import os; print(dict(os.environ))", QUICK).output


def test_where_the_kernel_refuses_nothing_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A confining program that fails, as under a kernel without user namespaces."""
    refusing = tmp_path / "confine.py"
    refusing.write_text("import sys; sys.exit('unshare: Operation not permitted')")
    monkeypatch.setattr(sandbox, "CONFINE", refusing)
    why_not.cache_clear()
    try:
        with pytest.raises(NoSandbox, match=r"not run here: the kernel refuses .*not permitted"):
            run_python("print(1)")
    finally:
        why_not.cache_clear()
