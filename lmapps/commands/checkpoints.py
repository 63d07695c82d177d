"""Command line -> another copy of a checkpoint: `lmapps checkpoints export NAME FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path

from lmapps.errors import SettingsError
from lmapps.native import WEIGHTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["export"], help="write a copy in another precision")
    parser.add_argument("checkpoint", help="a folder or name")
    parser.add_argument("folder", help="where the copy goes; a new folder")
    parser.add_argument(
        "--weights", default="bfloat16", choices=WEIGHTS,
        help="precision of the copy (bfloat16); int8 is compressed-tensors' pack-quantized",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    folder = Path(args.folder).expanduser()
    if folder.exists():
        raise SettingsError(f"{folder} exists already: name a folder that does not")
    import torch

    from lmapps.model.checkpoint import Checkpoint
    from lmapps.paths import find_checkpoint

    checkpoint = Checkpoint.load(find_checkpoint(args.checkpoint))
    checkpoint.save(folder, dtype=getattr(torch, args.weights))
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    print(f"{folder}: {args.weights}, {size:.1f} MB")
    return 0
