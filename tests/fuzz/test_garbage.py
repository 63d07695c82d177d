"""Whatever is sent to a server, somebody else's stream goes on, nothing is a 5xx, nothing leaks."""

from __future__ import annotations

import gc
import json
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmapps.discovery import discover

METHODS = ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "get", "G\0T", ""]
PATHS = [
    *("/", "/v1/models", "/v1/models/%ff%fe", "/v1/chat/completions", "/v1/completions"),
    *("/apps", "/apps/news", "/apps/summarize", "/apps/%00", "/health", "/ready", "/metrics"),
    *("/login", "/logout", "/account", "/account/keys", "/account/password", "/account/usage"),
    *("/runs/version", "/runs/../../etc/passwd/report.html", "/plugins/version", "/openapi.json"),
    *("/config", "/gradio_api/info", "/gradio_api/queue/join", "/gradio_api/queue/data"),
    *("/gradio_api/run/predict", "/gradio_api/upload", "/gradio_api/upload_progress"),
    *("/gradio_api/file=/etc/passwd", "/gradio_api/heartbeat/x", "/gradio_api/cancel"),
    *("/gradio_api/reset", "/gradio_api/startup-events", "/theme.css", "/static/x", "/assets/x"),
    *("/svelte/x", "/%2e%2e/%2e%2e", "//", "/?" + "a=b&" * 500, "*", "http://evil.example/"),
    *("/?page=x&deep_link=x", "/config?page=x", "/pwa_icon", "/pwa_icon/192", "/manifest.json"),
    *("/favicon.ico", "/robots.txt", "/monitoring", "/monitoring/summary", "/gradio_api/app_id"),
    *(f"/{name}/{'x' * 300}" for name in ("static", "assets", "svelte")),
    *(f"/gradio_api/file=/{name}" for name in ("x" * 300, "x/" * 3000, "%00", "tmp/%ff")),
    *("/gradio_api/file=x", "/gradio_api/queue/data?session_hash=a"),
    *("/gradio_api/upload?upload_id=a", "/gradio_api/heartbeat/" + "x" * 300),
]
RANGES = ["0-5", "9-1", "1-2-3", "0-1,4-5", "-", "x-y"]
TYPES = [
    *("application/json", "text/plain", "multipart/form-data; boundary=x", "application/xml"),
    *("application/x-www-form-urlencoded", "application/json; charset=utf-16", "\xff\xfe"),
]


def made_up(draw: random.Random, deep: int = 3) -> Any:
    """JSON with the names that our addresses and Gradio's know."""
    names = [
        *("messages", "role", "content", "prompt", "max_tokens", "temperature", "stream", "n"),
        *("stop", "logit_bias", "response_format", "decoding", "text", "topic", "user", "model"),
        *("data", "fn_index", "session_hash", "event_id", "trigger_id", "event_data", "path"),
    ]
    simple = [
        *(None, True, False, 0, -1, 2**64, 1e308, -0.0, "", "a", "\ud800", "\0", "<script>"),
        *("../" * 9, "😀" * 99, "9" * 400, "assistant", "user", 3, 0.5),
    ]
    kind = draw.randrange(4) if deep else 0
    if kind == 1:
        return [made_up(draw, deep - 1) for _ in range(draw.randrange(5))]
    if kind > 1:
        chosen = draw.sample(names, draw.randrange(6))
        return {name: made_up(draw, deep - 1) for name in chosen}
    return draw.choice(simple)


def event_of(draw: random.Random) -> dict[str, Any]:
    """Something of the page that is asked for nearly as the page would."""
    session = draw.choice(["a", "", "\0", "😀", "x" * 300, None, made_up(draw, 0)])
    event = draw.choice([draw.randrange(400), draw.randrange(400), -1, 2**40, None])
    values = [made_up(draw, 1) for _ in range(draw.choice([0, 1, 2, 20]))]
    body = {"data": values, "fn_index": event, "session_hash": session}
    chosen = draw.choice([{}, {"batched": True}, {"simple_format": True}, {"event_id": "a"}])
    return body | chosen | draw.choice([{}, {"trigger_id": draw.randrange(400)}])


def body_of(draw: random.Random) -> bytes:
    kind = draw.randrange(9)
    if kind < 3:
        return json.dumps(made_up(draw)).encode()
    if kind > 6:
        return json.dumps(event_of(draw)).encode()
    if kind == 3:
        return draw.randbytes(draw.randrange(2000))
    if kind == 4:
        return b"[" * draw.randrange(20_000)
    if kind == 5:
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="'
        return head + draw.randbytes(9) + b'.pdf"\r\n\r\n' + draw.randbytes(99) + b"\r\n--x--"
    return b"name=" + draw.randbytes(20) + b"&password=%ff%00&" + b"a=b&" * draw.randrange(100)


def request_of(draw: random.Random, who: Mapping[str, str]) -> bytes:
    """One request: nearly right, or wrong in its line, its headers, its lengths or its chunks."""
    body, kind = body_of(draw), draw.randrange(12)
    if kind == 0:
        return draw.randbytes(draw.randrange(1, 3000))
    method, path = draw.choice(METHODS), draw.choice(PATHS)
    version = draw.choice(["HTTP/1.1"] * 8 + ["HTTP/1.0", "HTTP/2", "HTTP/9.9", ""])
    headers = [f"Host: {draw.choice(['a', '127.0.0.1', 'evil.example', ''])}"]
    headers.append(f"Content-Type: {draw.choice(TYPES)}")
    headers += [f"{name}: {value}" for name, value in who.items()]
    if kind == 1:
        headers.append("X: " + "y" * draw.choice([10_000, 70_000, 300_000]))
    if kind == 2:
        headers += [f"X-{number}: y" for number in range(draw.choice([50, 3000]))]
    if kind == 3:
        odd = ["Origin: null", "Cookie: \xff=\0", "Authorization: Bearer \xff"]
        odd.append(f"Range: bytes={draw.choice(RANGES)}")
        headers += [*odd, "Accept-Language: " + "\xe4" * 99, "X-Request-Id: \r", "Expect: 100-x"]
    if kind == 4:  # chunks that end in the middle, or are none
        headers.append("Transfer-Encoding: chunked")
        body = draw.choice(
            [b"5\r\nab", b"zz\r\n", b"-1\r\n\r\n", b"3\r\nabc\r\n", b"ffffffffff\r\n"]
        )
    elif kind == 5:
        length = draw.choice(["-1", "abc", "99999999999", str(len(body) + 50), "1, 2", "0x10"])
        headers.append(f"Content-Length: {length}")
    else:
        headers.append(f"Content-Length: {len(body)}")
    if kind == 6:
        headers.append(
            draw.choice(["Transfer-Encoding: chunked", "Content-Length: 3", "Upgrade: h2c"])
        )
    if kind == 7:
        headers += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    head = f"{method} {path} {version}\r\n" + "\r\n".join(headers) + "\r\n\r\n"
    return head.encode("latin-1", "replace") + body


def status_of(port: int, sent: bytes, patience: float) -> int:
    """Of the answer; 0 where the connection is closed without one, or none comes in time."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        try:
            connection.settimeout(10)
            connection.sendall(sent)
            connection.settimeout(patience)  # half a request is never answered: go on
            line = connection.recv(100)
        except OSError:
            return 0
    words = line.split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


@pytest.fixture(scope="module", params=[False, True], ids=["open", "accounts"])
def served(request: pytest.FixtureRequest, serve: Callable[..., Any]) -> Iterator[Any]:
    """A server without accounts, and one with: there the visitor has a key."""
    from lmapps.server.accounts.users import Users

    keys = list[str]()

    def prepare(store: Any) -> None:
        if request.param:
            users = Users(store.database)
            users.add("ann", "a long password")
            keys.append(users.add_key("ann", "test"))

    with serve(discover(), 0.02, prepare=prepare) as running:
        running.headers = {"authorization": f"Bearer {keys[0]}"} if keys else {}
        yield running


def kept(process: Path = Path("/proc/self")) -> tuple[int, int, int]:
    """Threads, open files, and MB of memory."""
    gc.collect()
    pages = int((process / "statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") >> 20
    return threading.active_count(), len(os.listdir(process / "fd")), memory


def bombard(served: Any, count: int, hands: int = 4) -> Counter[int]:
    """Send so much garbage, a few at a time; the statuses that came back."""
    port, seen = int(served.url.rsplit(":", 1)[1]), Counter[int]()
    numbers = iter(range(count))
    turn = threading.Lock()

    def hand() -> None:
        while True:
            with turn:
                number = next(numbers, None)
            if number is None:
                return
            who = served.headers if number % 2 else {}  # half of it comes from a stranger
            sent = request_of(random.Random(number), who)
            status = status_of(port, sent, 0.5)
            assert status < 500 or status == 501, (number, status, sent[:300])
            with turn:
                seen[status] += 1

    failures = list[BaseException]()

    def noting() -> None:
        try:
            hand()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=noting) for _ in range(hands)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not failures, failures[0]
    return seen


def goes_on(served: Any, count: int) -> None:
    """Somebody's replies come whole, one after another, as long as the garbage does."""
    ended, replies, failures = threading.Event(), list[int](), list[str]()

    def ask_on() -> None:
        body = {"prompt": "The cat", "max_tokens": 60, "stream": True}
        url = f"{served.url}/v1/completions"
        while not ended.is_set() or not replies:
            with httpx.stream("POST", url, json=body, timeout=60, headers=served.headers) as answer:
                lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
            whole = answer.status_code == 200 and lines and lines[-1] == "data: [DONE]"
            replies.append(len(lines)) if whole else failures.append(str(lines[-1:]))
            if failures:
                return

    asking = threading.Thread(target=ask_on)
    asking.start()
    seen = bombard(served, count)
    ended.set()
    asking.join(120)
    assert replies and not failures, failures
    assert len(seen) > 4 and seen[400], "there was garbage of many kinds"
    outside = (0, 400, 401, 421)  # before anybody asks what it is that is asked for
    inside = sum(number for status, number in seen.items() if status not in outside)
    assert inside > count / 10, "a good part of it has come in"


def test_garbage_gets_no_5xx_and_a_stream_beside_it_goes_on(served: Any) -> None:
    goes_on(served, 150)
    served.wait_until_idle()
    health = httpx.get(f"{served.url}/health", headers=served.headers).json()
    assert health["running"] == 0 and all(part["kind"] for part in health["parts"])


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_address_asked_nearly_as_the_page_asks_gets_a_5xx(served: Any, method: str) -> None:
    port, draw = int(served.url.rsplit(":", 1)[1]), random.Random(1)
    often = ["/gradio_api/queue/join", "/gradio_api/run/predict"] * 40
    for path in PATHS + (often if method == "POST" else []):
        body = json.dumps(event_of(draw)).encode() if method == "POST" else b""
        lines = [f"{method} {path} HTTP/1.1", "Host: a", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in served.headers.items()]
        lines += [f"Range: bytes={draw.choice(RANGES)}", f"Content-Length: {len(body)}"]
        sent = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
        status = status_of(port, sent, 5)
        assert 0 < status < 500 or "upload_progress" in path, (status, sent[:500])
    served.wait_until_idle()


@pytest.mark.long
def test_ten_thousand_of_them_leave_nothing_behind(served: Any) -> None:
    goes_on(served, 1000)  # every thread that is ever needed is there by now
    before = settled(served, (0, 0, 0))
    goes_on(served, 10_000)
    after = settled(served, before)
    assert after[0] <= before[0] + 4, f"threads: {before[0]}, then {after[0]}"
    assert after[1] <= before[1] + 20, f"open files: {before[1]}, then {after[1]}"
    assert after[2] <= before[2] + 150, f"memory: {before[2]} MB, then {after[2]}"


def settled(served: Any, before: tuple[int, int, int]) -> tuple[int, int, int]:
    """What is left once connections that wait for the rest of a request have been cut off."""
    served.wait_until_idle()
    deadline, now = time.monotonic() + 90, kept()
    while time.monotonic() < deadline and (before == (0, 0, 0) or now[1] > before[1]):
        time.sleep(5)
        now, last = kept(), now
        if now[:2] == last[:2]:
            break
    return now
