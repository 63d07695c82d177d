"""The soak run finds nothing left over, and its checks can fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "soak.py"


@pytest.mark.long
def test_a_short_soak_leaks_nothing_and_answers_everybody() -> None:
    words = [sys.executable, str(SCRIPT), "--minutes", "0.5", "--fail-every", "300"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'200': " in done.stdout and "'429': " in done.stdout
