"""A machine that has no more threads to give: torch takes over, and the process goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lmapps.native.library import Unavailable, levels

PROGRAM = """
import resource
from lmapps.model.language_model import LanguageModel
from lmapps.native.library import Unavailable
from lmapps.native.step import NativeStep

model = LanguageModel(vocab_size=31, hidden_size=16, num_layers=1, body="transformer", num_heads=2)
NativeStep(model, threads=1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
_, most = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + 48 * 2**20, most))  # a thread's stack takes 8 MiB
try:
    NativeStep(model, threads=64)
except Unavailable as reason:
    print(reason)
"""


def test_threads_that_cannot_be_had_do_not_end_the_process() -> None:
    try:
        levels()
    except Unavailable as reason:
        pytest.skip(str(reason))
    if not Path("/proc/self/statm").is_file():
        pytest.skip("needs Linux's /proc")
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "there is not enough memory for 64 threads\n"
