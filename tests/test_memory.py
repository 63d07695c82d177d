"""Freed memory stays with a process that trains, and goes back at the end."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from typing import ClassVar

import pytest
import torch

from lmapps import memory
from lmapps.memory import kept_memory

PROGRAM = """
import json, resource, torch
from lmapps.memory import kept_memory

def pages(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        large = torch.zeros(2**24).add_(1)  # 64 MiB: 16,384 pages
        behind = bytearray(2**16)  # in the heap behind it, so that the heap's end can't be cut off
        del large
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

before = pages(10)
with kept_memory(torch.device("cpu")):
    pages(10)
    within, held = pages(10), resident()
given_back, after = held - resident(), pages(10)
rest = resident()
pieces = [torch.ones(2**18) for _ in range(128)]  # a MiB each: at the heap's end
del pieces
print(json.dumps([before, within, after, given_back, resident() - rest]))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_freed_memory_is_not_asked_for_again_and_goes_back_at_the_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    before, within, after, given_back, kept = json.loads(done.stdout)
    assert within < before / 5  # at most one piece more
    assert after > 0.9 * before  # large pieces come untouched again, and go back at once
    assert given_back > 2**25
    assert kept < 3 * 2**25  # of 2**27: the heap's end is cut off again


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("the name is out of memory"), False),
    ],
)
def test_an_error_that_means_that_memory_ended_is_known(error: Exception, is_memory: bool) -> None:
    assert memory.is_out_of_memory(error) is is_memory


def test_an_older_glibc_which_takes_no_higher_threshold_gets_the_highest_that_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Older:
        thresholds: ClassVar[list[int]] = []

        def mallopt(self, which: int, value: int) -> int:
            if which == memory._MMAP_THRESHOLD and value > 2**25:
                return 0
            self.thresholds += [value] if which == memory._MMAP_THRESHOLD else []
            return 1

        def malloc_trim(self, _: int) -> None:
            pass

    monkeypatch.setattr(memory, "_glibc", Older)
    with kept_memory(torch.device("cpu")):
        assert Older.thresholds == [2**25]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_without_glibc_and_on_a_gpu_nothing_changes(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_glibc", lambda: object() if device == "cuda" else None)
    with kept_memory(torch.device(device)):
        pass
