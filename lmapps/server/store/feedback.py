"""Replies that people corrected or liked -> examples to train on, some of them held out.

A row is a conversation up to a reply that was approved, as `lmapps train --apps chat` takes it.
Training counts every reply in a row, so a row with a disliked one in it is left out, and of two
rows of which one begins with the other, the longer is enough. All rows of a conversation are on
the same side of the split, in every export; but see `held_out` for the first few.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmapps.errors import InputError, StorageError
from lmapps.server.store.conversation import Conversation, Turn, as_messages
from lmapps.server.store.store import Store
from lmapps.text.storage import write_whole

HELD_OUT = 0.2
"""The share of the conversations that training does not see: people correct few."""
TRAIN_FILE, HELD_OUT_FILE = "train.jsonl", "held_out.jsonl"

Row = dict[str, Any]
"""`{"messages": [...]}`, the last of which is the reply, and the chat's other fields, such as its
persona, as they were."""


@dataclass(frozen=True)
class Feedback:
    """What people think is right."""

    train: Sequence[Row]
    held_out: Sequence[Row]
    left_out: int
    """Replies that were approved after one that was disliked."""

    def write(self, folder: Path) -> list[Path]:
        """`train.jsonl` and `held_out.jsonl`, whole or not at all. Raises `StorageError`."""
        files = []
        for name, rows in ((TRAIN_FILE, self.train), (HELD_OUT_FILE, self.held_out)):
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            files.append(folder / name)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write_whole(files[-1], lines.encode())
            except OSError as error:
                raise StorageError(f"cannot write {files[-1]}: {error.strerror}") from None
        return files


def feedback(
    store: Store, plugin: str, owner: str | None = None, share: float = HELD_OUT
) -> Feedback:
    """What is approved of a chat plugin's replies by one owner, or, for None, by everybody.

    Where `share` is above 0, at least one conversation is held out, and of two at least one is not.
    Raises `InputError` for a share that is not between 0 and 1.
    """
    if not 0 <= share < 1:
        raise InputError(f"the share held out must be at least 0 and below 1, got {share}")
    found = {whole.id: rows_of(whole) for whole in store.with_feedback(plugin, owner)}
    apart = held_out(list(name for name, (rows, _) in found.items() if rows), share)
    sides: tuple[list[Row], list[Row]] = ([], [])
    for name, (rows, _) in found.items():
        sides[name in apart].extend(rows)
    return Feedback(*sides, sum(left_out for _, left_out in found.values()))


def rows_of(whole: Conversation) -> tuple[list[Row], int]:
    """The rows of a conversation, every branch of it, and how many replies were left out."""
    approved = [turn for turn in whole.turns if _is_approved(turn) and not _is_old(turn, whole)]
    paths = [whole.path(turn.id) for turn in approved]
    within = {turn.id for path in paths for turn in path[:-1]}
    ends = [path for path in paths if path[-1].id not in within]
    fit = [path for path in ends if all(turn.rating != -1 for turn in path)]
    rows = [{**whole.made_of(path[-1]).fields, "messages": as_messages(path)} for path in fit]
    return rows, len(ends) - len(fit)


def held_out(names: Sequence[str], share: float) -> set[str]:
    """Those of the names that are held out, each by its own hash: more names move none that was
    not held out to this side. Of two names or more some are on each side, whatever their hashes:
    as long as all would be held out, the last to be is not."""
    ranked = sorted(names, key=_place)
    if share == 0 or not ranked:
        return set()
    chosen = sum(_place(name) < share for name in ranked)
    return set(ranked[: max(1, min(chosen, len(ranked) - 1))])


def _is_approved(turn: Turn) -> bool:
    is_right = turn.author == "person" or turn.rating == 1
    return turn.role == "assistant" and is_right and turn.rating != -1 and bool(turn.content)


def _is_old(turn: Turn, whole: Conversation) -> bool:
    """Whether it is a correction that was corrected again."""
    corrections = [other for other in whole.versions(turn) if other.author == "person"]
    return turn.author == "person" and turn is not corrections[-1]


def _place(name: str) -> float:
    """Where a name stands between 0 and 1."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32
