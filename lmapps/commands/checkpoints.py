"""Command line -> checkpoints listed, pulled, and copied: `lmapps checkpoints`."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from lmapps.errors import SettingsError
from lmapps.native import WEIGHTS
from lmapps.paths import checkpoint_folders, find_checkpoint
from lmapps.small_file import small_json, small_text

TRAVELS = ("README.md", "LICENSE", "prompts.json", "report.json")
"""Files that belong to a copy too: whose it is, under which licence, how it was trained."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", help="(none: list them)")
    actions.add_parser("list", help="those on this machine, and those that can be pulled")
    pull = actions.add_parser("pull", help="bring an open model onto this machine")
    pull.add_argument(
        "name", help="as `list` names it, OWNER/NAME of the Hugging Face Hub, or a folder's path"
    )
    pull.add_argument("--folder", type=Path, help="where to (the person's checkpoints)")
    pull.add_argument(
        "--licence", default="", help="of a model under none of the open ones, once you agreed"
    )
    export = actions.add_parser("export", help="write a copy in another precision, or as GGUF")
    export.add_argument("checkpoint", help="a folder or name")
    export.add_argument("target", help="a new folder; or a new file whose name ends in .gguf")
    export.add_argument(
        "--weights", default="bfloat16", choices=WEIGHTS,
        help="precision of the copy (bfloat16); int8 is compressed-tensors' pack-quantized in a "
        "folder, Q8_0 in a GGUF file",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    actions = {"pull": _pull, "export": _export}
    return actions.get(args.action, _list)(args)


def _list(args: argparse.Namespace) -> int:
    from lmapps.pull.known import KNOWN

    found = [file.parent for folder in checkpoint_folders() for file in _configs(folder)]
    for folder in found:
        print(f"{folder.name:24} {described(folder)}; {folder}")
    there = {folder.name for folder in found}
    for model in KNOWN:
        if model.name not in there:
            print(
                f"{model.name:24} {model.about}; {model.licence}; not here: lmapps checkpoints "
                f"pull {model.name} ({model.download_bytes / 1e6:.0f} MB)"
            )
    return 0


def _configs(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*/config.json") if file.parent.name[0] != ".")


def described(folder: Path) -> str:
    """Kind and size on disk, from its files."""
    try:
        stored = small_json(folder / "config.json")
        kind = stored.get("model_type") if isinstance(stored, dict) else None
    except (OSError, ValueError) as error:
        return f"cannot be read: {error}"
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return f"{kind!s:.40}, {size / 1e6:.1f} MB"


def _pull(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from lmapps.pull.known import Progress
    from lmapps.pull.pull import pull

    bars: dict[str, Any] = {}

    def show(progress: Progress) -> None:
        if progress.stage not in bars:
            for bar in bars.values():
                bar.close()
            total = progress.total or None
            bars[progress.stage] = tqdm(
                total=total, desc=progress.stage, unit="B", unit_scale=True, file=sys.stderr
            )
        bars[progress.stage].update(progress.done - bars[progress.stage].n)

    try:
        folder = pull(args.name, args.folder, licence=args.licence, on_progress=show)
    finally:
        for bar in bars.values():
            bar.close()
    print(f"{folder}: try `lmapps serve --checkpoint {args.folder or folder.name}`")
    return 0


def _export(args: argparse.Namespace) -> int:
    target = Path(args.target).expanduser()
    if target.exists():
        raise SettingsError(f"{target} exists already: name a folder or file that does not")
    from lmapps.model.checkpoint import Checkpoint

    source = find_checkpoint(args.checkpoint)
    checkpoint = Checkpoint.load(source)
    if target.suffix == ".gguf":
        from lmapps.model.gguf_file import write_gguf

        write_gguf(checkpoint, target, args.weights, card_settings(source))
    else:
        import torch

        checkpoint.save(target, dtype=getattr(torch, args.weights))
        for name in TRAVELS:
            if (source / name).is_file():
                shutil.copyfile(source / name, target / name)
    files = [target] if target.is_file() else target.iterdir()
    size = sum(file.stat().st_size for file in files) / 1e6
    print(f"{target}: {args.weights}, {size:.1f} MB")
    return 0


def card_settings(folder: Path) -> dict[str, str]:
    """The `key: value` lines at the head of a model card; none where there is no card."""
    card = folder / "README.md"
    try:
        text = small_text(card)
    except (OSError, ValueError):
        return {}
    head = text.split("---")[1] if text.startswith("---") and text.count("---") > 1 else ""
    pairs = (line.partition(":") for line in head.splitlines() if not line.startswith(" "))
    return {key.strip(): value.strip() for key, _, value in pairs if value.strip()}
