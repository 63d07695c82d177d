"""A Hub of our own, with one model in it: `some/model`."""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lmapps.model.checkpoint import Checkpoint


class FakeHub(BaseHTTPRequestHandler):
    """The three addresses of the Hub that a download needs.

    lie   its weights have other hashes than it says
    cuts  it breaks off in the middle of the weights
    """

    files: dict[str, bytes]
    licence: str
    lie = cuts = False

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/some/model/tree/"):
            self._send(json.dumps(self._listed()).encode(), {"Content-Type": "application/json"})
        elif path.startswith("/api/models/some/model"):
            self._send(json.dumps(self._described()).encode(), {"Content-Type": "application/json"})
        elif "/resolve/" in path and (name := path.rsplit("/", 1)[-1]) in self.files:
            content = self.files[name]
            marks = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": "a" * 40}
            self._send(content, marks)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _listed(self) -> list[dict[str, Any]]:
        described = self._described()["siblings"]
        return [
            {"type": "file", "path": one["rfilename"], "size": one["size"], "oid": one["blobId"]}
            for one in described
        ]

    def _described(self) -> dict[str, Any]:
        siblings = []
        for name, content in self.files.items():
            seen = content + b"!" if self.lie and name.endswith(".safetensors") else content
            blob = hashlib.sha1(b"blob %d\0" % len(seen) + seen).hexdigest()
            file = {"rfilename": name, "size": len(content), "blobId": blob}
            if name.endswith(".safetensors"):
                digest = hashlib.sha256(seen).hexdigest()
                file["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
            siblings.append(file)
        return {
            "id": "some/model", "sha": "a" * 40, "siblings": siblings, "private": False,
            "tags": [], "cardData": {"license": self.licence},
        }  # fmt: skip

    def _send(self, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            is_cut = self.cuts and len(content) > 100_000
            self.wfile.write(content[:50_000] if is_cut else content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def fake_hub(checkpoint: Checkpoint) -> Iterator[tuple[type[FakeHub], str]]:
    """What it has and says can be changed while it is served; and its address."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder))
        files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
    handler = type("Hub", (FakeHub,), {"files": {**files, "x.bin": b"no"}, "licence": "mit"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
