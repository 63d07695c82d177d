"""How much memory there is: of the machine, or of the container around it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lmapps import machine
from lmapps.engine.devices import memory_for_models


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cgroup, version 2, whose files a test may write."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_cgroups", lambda _: [(2, tmp_path)])
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


def test_no_more_cores_are_used_than_the_container_may_keep_busy(
    container: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert machine.usable_cores() == 8, "no file: no limit"
    for quota, cores in (("max", 8), ("250000", 2), ("50000", 1), ("6400000", 8)):
        (container / "cpu.max").write_text(f"{quota} 100000\n")
        assert machine.usable_cores() == cores
    machine.limit_threads()
    assert "OMP_NUM_THREADS" not in os.environ
    (container / "cpu.max").write_text("300000 100000\n")
    machine.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    machine.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "5", "what a person chose"


def test_of_version_1_the_limit_of_cores_is_in_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    inner = tmp_path / "cpu" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.setattr(machine, "_cgroups", lambda _: [(1, inner), (1, inner.parent)])
    for folder, quota in ((inner, -1), (inner.parent, 450_000)):
        (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.usable_cores() == 4


def test_the_cgroups_around_this_process_are_found_by_their_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "12:cpu,cpuacct:/a/b\n5:memory:/a\n3:pids:/a\n0::/c\n"
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_own_cgroups", lambda: told.splitlines())
    one, two = tmp_path / "cpu", tmp_path
    assert list(machine._cgroups("cpu")) == [
        *((1, place) for place in (one / "a" / "b", one / "a", one)), (2, two / "c"), (2, two),
    ]  # fmt: skip
    assert [version for version, _ in machine._cgroups("memory")] == [1, 1, 2, 2]
