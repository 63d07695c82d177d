"""A run that learns nothing, quickly: `quick_run.py FOLDER WEIGHTS STEPS SETTINGS`.

What others see of a run in its folder, and how it answers to signals, is as in a real one.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

from lmapps.training.process import Paused, Request, held

folder, weights, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
log = folder / "run" / "log.jsonl"
with held(folder), Request(folder) as asked:
    (folder / "run" / "settings.json").write_text(sys.argv[4])
    shutil.copytree(weights, folder, dirs_exist_ok=True)
    done = log.read_text().count("\n") if log.exists() else 0
    for step in range(done + 1, last + 1):
        entry = {
            "step": step, "tokens": 64 * step, "loss": 3 - step / last, "share": step / last,
            "seconds": 0.1 * step, "tokens_per_second": 640, "metrics": {"likeness": step / last},
        }  # fmt: skip
        with log.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")
        if asked.made and not asked.is_early:
            raise Paused(f"paused after step {step}: nothing is lost")
        if asked.made:
            break
        time.sleep(0.02)
    (folder / "report.html").write_text("<h1>The report</h1>")
    (folder / "report.json").write_text("{}")
