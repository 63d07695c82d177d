"""Who leaves before the first token frees the slot as well: counted in pieces of the prompt."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from lmapps.discovery import discover


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/apps/summarize"])
def test_a_stream_that_is_dropped_while_its_prompt_is_read_is_read_no_further(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("lmapps.engine.scheduler.PREFILL_TOKENS", 1)
    words = "the cat " * 12
    asked = {
        "/v1/chat/completions": f'{{"messages": [{{"role": "user", "content": "{words}"}}], '
        '"stream": true}',
        "/apps/summarize": f'{{"text": "{words}", "stream": true}}',
    }[path]
    with serve(discover(), 0.0) as served:
        slots, pieces = served.engine._scheduler.slots, []
        prefill = slots.prefill

        def slow_prefill(request: Any, most: int) -> Any:
            pieces.append(request.prefilled)
            time.sleep(0.05)
            return prefill(request, most)

        slots.prefill = slow_prefill
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(asked)}\r\n\r\n"
            connection.sendall((head + asked).encode())
            deadline = time.monotonic() + 20
            while not pieces:
                assert time.monotonic() < deadline, connection.recv(1000)
                time.sleep(0.005)
        served.wait_until_idle()
        assert 0 < len(pieces) < 20 and served.engine.counts.finished == {"cancelled": 1}
        assert served.engine.counts.prompt_tokens > 25
