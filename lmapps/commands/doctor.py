"""Command line -> what this machine has and what will be used: `lmapps doctor`."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lmapps import __version__
from lmapps.discovery import discover
from lmapps.errors import CheckpointError
from lmapps.paths import find_checkpoint, home, plugin_folders

PACKAGES = ("torch", "transformers", "accelerate", "gradio", "tokenizers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", default="default", help="a folder or name (default)")


def main(args: argparse.Namespace) -> int:
    """Prints one line a fact. Exit code 1 where something that is needed is missing."""
    healthy = True
    for lines in (machine(), software(), devices(), places(), [checkpoint(args.checkpoint)]):
        for subject, fact, fine in lines:
            healthy = healthy and fine
            print(f"{'' if fine else '! '}{subject:12} {fact}")
    return 0 if healthy else 1


Fact = tuple[str, str, bool]


def machine() -> Iterator[Fact]:
    """System, processor, memory, disk."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "system", f"{platform.platform()}, Python {platform.python_version()}", True
    yield "processor", f"{cores} cores, {platform.machine()}", True
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        yield "memory", f"{memory / 2**30:.1f} GiB", True
    free = shutil.disk_usage(_existing(home())).free
    yield "disk", f"{free / 2**30:.1f} GiB free for {home()}", free > 2**30


def software() -> Iterator[Fact]:
    """Versions."""
    yield "lmapps", __version__, True
    for package in PACKAGES:
        try:
            yield package, version(package), True
        except PackageNotFoundError:
            yield package, "not installed: run `pip install -e .` again", False


def devices() -> Iterator[Fact]:
    """What training and serving will run on, in which precision."""
    import torch

    from lmapps.engine.backends.source import best_device
    from lmapps.training.start import mixed_precision

    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        yield "GPU", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB", True
    device = best_device()
    threads = f" with {torch.get_num_threads()} threads" if device == "cpu" else ""
    yield "serving", f"on {device}{threads}, fp32", True
    yield "decoding", decoding(device), True
    precision = {"no": "fp32"}.get(mixed_precision("auto"), mixed_precision("auto"))
    yield "training", f"on {device}{threads}, {precision}", True


def decoding(device: str) -> str:
    """What computes a step on this machine."""
    from lmapps.native.library import SWITCH, Unavailable, levels

    if device != "cpu":
        return f"with torch on {device}"
    try:
        return f"native, {levels()[0]} ({SWITCH}=0 turns it off)"
    except Unavailable as reason:
        return f"with torch: {reason}"


def places() -> Iterator[Fact]:
    """Where a person's data and plugins are."""
    source = "LMAPPS_HOME" if os.environ.get("LMAPPS_HOME") else "set LMAPPS_HOME to move it"
    yield "data folder", f"{home()} ({source})", True
    found = discover()
    folders = ", ".join(map(str, plugin_folders()))
    yield "plugins", f"{', '.join(found.plugins) or 'none'}; looked in {folders}", True
    for failure in found.failures:
        yield "plugin", str(failure), False


def checkpoint(name: str) -> Fact:
    """What `lmapps serve` opens."""
    from lmapps.model.checkpoint import Checkpoint

    folder = find_checkpoint(name)
    try:
        config = Checkpoint.load(folder).config
    except CheckpointError as error:
        return "checkpoint", str(error), False
    return (
        "checkpoint",
        f"{folder}: {config.body}, {config.parameters / 1e6:.2f}M parameters, "
        f"context {config.context}",
        True,
    )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
