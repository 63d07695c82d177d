"""How much memory there is: of the machine, or of the container around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmapps import machine
from lmapps.engine.devices import memory_for_models


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cgroup, version 2, whose files a test may write."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_cgroups", lambda: [(tmp_path, "memory.max", "memory.current")])
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{300 * 2**20}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {100 * 2**20}\nactive_file 0\n")
    return tmp_path


def test_a_container_without_a_limit_has_the_machines_memory(container: Path) -> None:
    total = machine.total_memory()
    assert total and machine.memory_limit() is None
    assert memory_for_models(("cpu",)) == total / 2
    free = machine.free_memory()
    assert free is not None and 0 < free < total


def test_models_take_half_of_what_the_container_may_have(container: Path) -> None:
    (container / "memory.max").write_text(f"{2**30}\n")
    assert machine.memory_limit() == 2**30
    assert memory_for_models(("cpu",)) == 2**29
    assert machine.free_memory() == 2**30 - 200 * 2**20


def test_of_version_1_the_pages_of_the_groups_below_count_as_well(container: Path) -> None:
    (container / "memory.max").write_text(f"{2**30}\n")
    pages = f"inactive_file 0\ntotal_inactive_file {100 * 2**20}\ntotal_active_file {2**20}\n"
    (container / "memory.stat").write_text(pages)
    assert machine.free_memory() == 2**30 - 199 * 2**20


def test_a_limit_above_the_machines_memory_is_none(container: Path) -> None:
    (container / "memory.max").write_text(f"{2**62}\n")
    assert machine.memory_limit() is None
