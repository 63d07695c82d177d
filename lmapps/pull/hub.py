"""OWNER/NAME -> a Llama or Qwen3 folder of the Hugging Face Hub, checked."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmapps.errors import CheckpointError, DownloadError, SettingsError, StorageError
from lmapps.model.checkpoint import load_template, load_tokenizer
from lmapps.model.folder import read_json, understand
from lmapps.pull.known import OnProgress, Progress

OPEN = (
    "apache-2.0", "mit", "isc", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "unlicense",
    "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
)  # fmt: skip
"""Licences under which anybody may use a model; others are to be named by who has read them."""
SETTINGS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja", "README.md", "LICENSE", "model.safetensors.index.json",
)  # fmt: skip


def fetch_folder(
    name: str, folder: Path, licence: str, on_progress: OnProgress, endpoint: str | None = None
) -> None:
    """Download what a checkpoint needs, the settings first: one that does not fit is not loaded.

    Raises `DownloadError` where there is no way to the Hub, `SettingsError` for a licence that was
    not agreed to, `CheckpointError` for another kind of model or a hash that is wrong.
    """
    from huggingface_hub import HfApi

    with _reasons(name):
        info = HfApi(endpoint=endpoint).model_info(name, files_metadata=True, timeout=20)
    _check_licence(name, info, licence)
    files = {file.rfilename: file for file in info.siblings or ()}
    settings = [files[wanted] for wanted in SETTINGS if wanted in files]
    weights = [file for path, file in files.items() if _is_weights(path)]
    sizes = [file.size or 0 for file in [*settings, *weights]]
    if shutil.disk_usage(folder).free < sum(sizes):
        raise StorageError(
            "{name} has {size:.1f} GB, more than the disk has free",
            name=name,
            size=sum(sizes) / 1e9,
        )
    done = 0
    for number, file in enumerate([*settings, *weights]):
        if number == len(settings):
            understand(read_json(folder, "config.json"), folder)
            load_template(folder, load_tokenizer(folder))
        _fetch(name, info.sha, file, folder, _Told(on_progress, done, sum(sizes)), endpoint)
        done += sizes[number]
    if not weights:
        raise CheckpointError(
            "{name} has no {file}: only safetensors are loaded", name=name, file="model.safetensors"
        )
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _is_weights(path: str) -> bool:
    return path.endswith(".safetensors") and path.startswith("model") and "/" not in path


def _check_licence(name: str, info: Any, agreed: str) -> None:
    card = info.card_data
    licence = str((card.get("license") if card else None) or "none")
    if licence == "other" and card.get("license_name"):
        licence = str(card.get("license_name"))
    if licence.lower() not in OPEN and licence != agreed:
        raise SettingsError(
            "the licence of {name} is {licence!r}: read it at https://huggingface.co/{name}, "
            "and if you agree, add --licence {licence}",
            name=name,
            licence=licence,
        )


def _fetch(
    name: str, revision: str | None, file: Any, folder: Path, told: _Told, endpoint: str | None
) -> None:
    """One file, and its hash: SHA-256 of a large one, git's own of a small one."""
    from huggingface_hub import hf_hub_download

    with _reasons(name):
        path = hf_hub_download(
            name,
            file.rfilename,
            revision=revision,
            local_dir=folder,
            tqdm_class=told.bar(),
            endpoint=endpoint,
        )
    size = Path(path).stat().st_size
    digest = (
        hashlib.sha256() if file.lfs else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    )
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    expected = file.lfs.sha256 if file.lfs else file.blob_id
    if digest.hexdigest() != expected:
        raise CheckpointError(
            "{file} of {name} has the hash {hash}, not {expected}: it is not used",
            file=file.rfilename,
            name=name,
            hash=digest.hexdigest(),
            expected=expected,
        )


class _Told:
    """Hands on what the Hub's own progress bar is told."""

    def __init__(self, on_progress: OnProgress, done: int, total: int) -> None:
        self.on_progress, self.done, self.total = on_progress, done, total

    def bar(self) -> type:
        from tqdm import tqdm

        told = self

        class Bar(tqdm):
            def __init__(self, *args: Any, **options: Any) -> None:
                options.pop("name", None)
                super().__init__(*args, **{**options, "disable": True})

            def update(self, n: float | None = 1) -> None:
                told.done += int(n or 0)
                told.on_progress(Progress("downloading", min(told.done, told.total), told.total))

        return Bar


@contextmanager
def _reasons(name: str) -> Iterator[None]:
    """What the Hub's client raises, as one sentence."""
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        GatedRepoError,
        HFValidationError,
        HTTPError,  # its HTTP client's, which has had other names
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        raise DownloadError(
            "{name} is given only to who has asked for it: do so at "
            "https://huggingface.co/{name}, then log in with `hf auth login`",
            name=name,
        ) from None
    except RepositoryNotFoundError:
        raise SettingsError(
            "the Hub has no public model {name}: check the name", name=name
        ) from None
    except HFValidationError:
        raise SettingsError(
            "a model of the Hub is named OWNER/NAME, got {name!r}", name=name
        ) from None
    except OfflineModeIsEnabled:
        raise DownloadError(
            "{name} is on the Hub, and HF_HUB_OFFLINE, which is set here, forbids to ask it: "
            "start without it, or with HF_HUB_OFFLINE=0",
            name=name,
        ) from None
    except (HTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DownloadError(
            "{name} cannot be downloaded from the Hub ({reason}): check the network; where "
            "only a Python package index is reachable, `lmapps checkpoints list` names what "
            "can be had",
            name=name,
            reason=reason,
        ) from None
