"""The soak run finds nothing left over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "soak.py"


@pytest.mark.long
def test_a_short_soak_leaves_nothing_over_and_answers_everybody(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPT), "--minutes", "0.5", "--fail-every", "300"]
    words += ["--name", str(tmp_path / "soak")]  # the half hour's stays as it is
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "soak.json").is_file()
    assert "'200': " in done.stdout and "'429': " in done.stdout
