"""The safetensors files of a checkpoint -> what their headers say, checked before it is believed.

A folder from somewhere else is data, and may lie: a header longer than its file, tensors that end
behind it, a config that asks for more than is there. All of that is found here, in memory that is
bounded by the header itself, before a tensor is made.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmapps.errors import CheckpointError
from lmapps.model.config import ModelConfig
from lmapps.small_file import parsed

MAX_HEADER = 16_000_000
"""Bytes: a hundred thousand tensors. The format takes more, but as JSON that is gigabytes."""
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "U16": 16, "I16": 16, "F16": 16,
    "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip


def check_weights(files: Sequence[Path], config: ModelConfig) -> None:
    """Whether the files can be what the config says. Raises `CheckpointError`."""
    # The smallest form, int8, has one byte for each number.
    check_size(config, sum(bytes_of(file) for file in files), files[0].parent)


def check_size(config: ModelConfig, held: int, place: Path) -> None:
    """Whether a model can have weights of which so many are there at most. Raises
    `CheckpointError`, also where this machine has no memory for it."""
    if config.parameters > held:
        raise CheckpointError(
            f"{place}: its settings ask for {config.parameters:,} parameters, its weights have "
            f"{held:,} at most: they do not belong together"
        )
    memory = _machine_memory()
    if memory and 4 * config.parameters > memory:
        raise CheckpointError(
            f"{place}: {config.parameters:,} parameters take "
            f"{4 * config.parameters >> 30:,} GiB of memory, this machine has {memory >> 30:,}: "
            "choose a smaller model"
        )


def bytes_of(file: Path) -> int:
    """The bytes of all tensors of a file. Raises `CheckpointError` where its header lies."""
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
                raise broken(file, f"its header has {length:,} bytes, the file {size:,}")
            header = parsed(stream.read(length))
    except OSError as error:
        raise broken(file, str(error.strerror or error)) from None
    except ValueError as error:
        raise broken(file, f"its header is not JSON: {str(error)[:80]}") from None
    if not isinstance(header, dict):
        raise broken(file, "its header is no JSON object")
    end = size - 8 - length
    return sum(
        _checked(file, name, stated, end)
        for name, stated in header.items()
        if name != "__metadata__"
    )


def _checked(file: Path, name: str, stated: Any, end: int) -> int:
    """The bytes of one tensor."""
    told: dict[str, Any] = stated if isinstance(stated, dict) else {}
    shape, place, bits = (
        told.get("shape"),
        told.get("data_offsets"),
        _BITS.get(str(told.get("dtype"))),
    )
    if bits is None or not (_are_sizes(shape, 0, 8) and _are_sizes(place, 2, 2)):
        raise broken(file, f"its header describes {name[:80]!r} as {str(stated)[:80]}")
    assert isinstance(shape, list) and isinstance(place, list)
    first, last = place
    if not first <= last <= end or (last - first) * 8 != math.prod(shape) * bits:
        raise broken(
            file,
            f"{name[:80]!r} of shape {shape} and type {told['dtype']} cannot lie at bytes "
            f"{first:,} to {last:,} of {end:,}",
        )
    return int(last - first)


def _are_sizes(numbers: Any, least: int, most: int) -> bool:
    """A list of so many whole numbers that a file could have."""
    return (
        isinstance(numbers, list)
        and least <= len(numbers) <= most
        and all(type(number) is int and 0 <= number < 2**63 for number in numbers)
    )


def broken(file: Path, reason: str) -> CheckpointError:
    """The error for a file that is not what it should be."""
    return CheckpointError(f"{file} is broken ({reason}): copy it again, or train it anew")


def _machine_memory() -> int:
    """Bytes; 0 where the system does not say."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return 0
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
