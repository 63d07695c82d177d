"""Who may call the server, by which name, with how much, how slowly; and what every answer says."""

from __future__ import annotations

import json
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import gradio as gr
import httpx
import pytest
from fastapi import FastAPI
from gradio.routes import App

from lmapps.server.gate.addresses import NEEDED, is_needed
from lmapps.server.gate.connections import Connection
from lmapps.server.gate.headers import policy_of_page, secured
from lmapps.server.gate.hosts import ForeignPage, Hosts, WrongHost
from lmapps.server.gate.log import Lines, without_secrets
from lmapps.server.gate.traffic import template_of
from lmapps.server.page.look import mount
from lmapps.server.page.sparing import Page

ASK = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


@pytest.mark.parametrize(
    "host",
    [
        *("localhost:7860", "127.0.0.1:7860", "[::1]:7860", "192.168.3.4", "app.localhost"),
        *("engine-1:8000", "lm.example.org", "LM.example.org.:443", f"{socket.gethostname()}:1"),
    ],
)
def test_a_server_is_called_by_its_own_names(host: str) -> None:
    Hosts(["lm.example.org"]).check("POST", {"host": host})


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "lm.example.org.evil"]
)
def test_a_domain_that_points_here_is_refused(host: str) -> None:
    with pytest.raises(WrongHost, match=r"is not called '.*--hosts"):
        Hosts(["lm.example.org"]).check("GET", {"host": host})


FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:9999"},
    {"origin": "file://"},
    {"origin": "chrome-extension://abc"},
    {"origin": "http://127.0.0.1"},
    {"origin": "http://127.0.0.1:port"},
    {"origin": f"http://{socket.gethostname()}:9999"},
    {"origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-site"},
    {"origin": "http://127.0.0.1:7860", "sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=lambda headers: str(headers))
def test_a_page_of_another_site_is_refused(headers: dict[str, str]) -> None:
    for method in ("GET", "POST"):
        with pytest.raises(ForeignPage):
            Hosts().check(method, {"host": "127.0.0.1:7860", **headers})


def test_a_link_from_another_site_opens_the_page_but_sends_nothing() -> None:
    link = {
        "host": "localhost:1", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate",
        "sec-fetch-dest": "document",
    }  # fmt: skip
    Hosts().check("GET", link)
    with pytest.raises(ForeignPage):
        Hosts().check("POST", link)


def test_the_page_itself_and_one_behind_a_proxy_are_not_foreign() -> None:
    own = {"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:7860"}
    Hosts().check("POST", {**own, "sec-fetch-site": "same-origin"})
    Hosts(["lm.example.org"]).check(
        "POST", {"host": "127.0.0.1:7860", "origin": "https://lm.example.org"}
    )


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("lm.example.org", "http://lm.example.org:9999"),
        ("lm.example.org:443", "http://lm.example.org"),
        ("lm.example.org:8443", "https://lm.example.org"),
        ("127.0.0.1:7860", "https://lm.example.org:9999"),
        ("127.0.0.1:7860", "https://lm.example.org.evil.example"),
    ],
)
def test_another_port_is_another_site(host: str, origin: str) -> None:
    with pytest.raises(ForeignPage):
        Hosts(["lm.example.org"]).check("POST", {"host": host, "origin": origin})


@pytest.mark.parametrize(
    ("host", "origin", "told"),
    [
        ("lm.example.org", "https://lm.example.org", ""),
        ("lm.example.org", "http://lm.example.org:80", ""),
        ("lm.example.org:443", "https://lm.example.org", ""),
        ("LM.example.org:8443", "https://lm.example.org:8443", ""),
        ("[::1]:7860", "http://[::1]:7860", ""),
        ("lm.example.org", "https://lm.example.org:8443", "same-origin"),  # no port is passed on
        ("127.0.0.1:7860", "https://lm.example.org:8443", "same-origin"),  # nor is the name
        ("lm.example.org", "http://lm.example.org:8080", "named"),
        ("127.0.0.1:7860", "http://lm.example.org:8080", "named"),
    ],
)
def test_a_proxy_may_pass_the_port_on_or_the_browser_or_the_settings_tell(
    host: str, origin: str, told: str
) -> None:
    names = ["lm.example.org:8080"] if told == "named" else ["lm.example.org"]
    site = {"sec-fetch-site": told} if told == "same-origin" else {}
    Hosts(names).check("POST", {"host": host, "origin": origin, **site})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"), ("POST", "/apps/news"), ("GET", "/v1/models"),
        ("POST", "/gradio_api/queue/join"), ("POST", "/gradio_api/upload"), ("GET", "/config"),
        ("GET", "/gradio_api/queue/data?session_hash=x"), ("GET", "/"),
    ],
)  # fmt: skip
def test_no_endpoint_answers_a_foreign_page_or_a_foreign_name(
    served: Any, method: str, path: str
) -> None:
    before = served.engine.counts.accepted
    for headers, status in (
        ({"origin": "https://evil.example"}, 403),
        ({"host": "evil.example"}, 421),
        ({"origin": "http://evil.example", "host": "evil.example"}, 421),
    ):
        answer = httpx.request(method, served.url + path, json=ASK, headers=headers)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]
        assert "access-control-allow-origin" not in answer.headers
    assert served.engine.counts.accepted == before


OF_GRADIO = [
    *("proxy=http://127.0.0.1/", "file=http://127.0.0.1:1/", "file=HTTPS://evil.example/x"),
    *("call/predict", "call/v2/predict", "api/predict", "component_server", "vibe-code"),
    *("process_recording", "stream/x/y/1/playlist.m3u8", "app_ids", "openapi.json", "runs"),
    *("deep_link?session_hash=x", "info", "startup-events", "run/other", "heartbeat/a-b", "file=a"),
]


@pytest.mark.parametrize(
    "path",
    [
        *(f"/gradio_api/{name}" for name in OF_GRADIO),
        *(
            "/login",
            "/logout",
            "/monitoring",
            "/monitoring/summary",
            "/monitoring/x",
            "/robots.txt",
        ),
        *("/pwa_icon/192", "/config/", "/svelte/x.js", "/static/", "/assets/../x", "/static/.x"),
        *(f"/{name}/{'x' * 256}" for name in ("static", "assets")),
    ],
)
def test_what_our_page_does_not_ask_of_gradio_is_not_there(served: Any, path: str) -> None:
    for method in ("GET", "POST"):
        answer = httpx.request(method, served.url + path)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "NoSuchAddress"


def test_every_route_of_gradio_is_one_that_our_page_needs_or_is_not_there(
    addresses_of: Callable[[Any], set[str]],
) -> None:
    with Page() as page:
        gr.Markdown("Hello")
    inside = [getattr(route, "app", None) for route in mount(FastAPI(), page, []).routes]
    (mounted,) = [one for one in inside if isinstance(one, App)]
    paths = {address.split()[1] for address in addresses_of(mounted)}
    assert paths >= NEEDED.keys(), "what is not there is not needed"
    assert len(paths) > 2 * len(NEEDED)
    for path in paths - NEEDED.keys():
        for name in ("x", "/x", "predict", "192"):
            assert not is_needed(re.sub(r"{.*?}", name, path)), path


def test_what_the_page_asks_past_the_queue_takes_no_values(served: Any) -> None:
    asked = httpx.get(f"{served.url}/config").json()["dependencies"]
    past = [event for event in asked if event["backend_fn"] and not event["queue"]]
    assert past and not any(event["inputs"] for event in past)


@pytest.mark.parametrize("query", ["deep_link=x", "page=nowhere", "deep_link=../x&a=b"])
def test_a_query_that_is_none_of_ours_changes_nothing(served: Any, query: str) -> None:
    for path in ("/", "/config"):
        answer, plain = (httpx.get(served.url + path + end) for end in (f"?{query}", ""))
        assert answer.status_code == 200 and answer.content == plain.content


def test_the_environment_starts_nothing_that_is_not_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GRADIO_MCP_SERVER", "true")
    with Page() as page:
        gr.Markdown("Hello")
    mount(FastAPI(), page, [])
    assert not page.mcp_server and page.mcp_error is None


def test_who_asks_for_an_odd_part_of_their_file_gets_the_whole_file(served: Any) -> None:
    sent = httpx.post(f"{served.url}/gradio_api/upload", files={"files": ("a.txt", b"0123456789")})
    url = f"{served.url}/gradio_api/file={sent.json()[0]}"
    for asked, status, content in (
        ("bytes=2-4", 206, b"234"), ("bytes=7-", 206, b"789"), ("bytes=-1", 206, b"9"),
        ("bytes=50-60", 416, None), ("bytes=1-2-3", 200, b"0123456789"),
        ("bytes=0-1,4-5", 200, b"0123456789"), (f"bytes={'9' * 5000}-1", 200, b"0123456789"),
        ("bytes=\xb2-\xb2", 200, b"0123456789"), ("lines=1-2", 200, b"0123456789"),
    ):  # fmt: skip
        answer = httpx.get(url, headers={"range": asked.encode("latin-1")})
        assert answer.status_code == status, (asked, answer.text)
        assert content is None or answer.content == content


@pytest.mark.parametrize(
    "path", ["/gradio_api/file=/tmp/gradio/1/My diary.json", "/gradio_api/heartbeat/mypage"]
)
def test_a_file_and_a_page_are_not_named_in_the_log(
    served: Any, path: str, caplog: pytest.LogCaptureFixture, wait_until: Callable[..., None]
) -> None:
    caplog.set_level(logging.DEBUG, "lmapps.requests")
    with httpx.stream("GET", served.url + path, headers={"x-request-id": "this-one"}):
        pass
    # The line is written when the answer has ended; so may be that of a request before.
    wait_until(lambda: any(record.request == "this-one" for record in caplog.records))
    (line,) = (Lines().format(one) for one in caplog.records if one.request == "this-one")
    assert template_of(path) in line and "diary" not in line and "mypage" not in line


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "pyproject.toml"),
        *(
            "lmapps/errors.py",
            "/proc/self/environ",
            "checkpoints/default/config.json",
            "//etc/passwd",
        ),
    ],
)
def test_no_file_of_the_machine_is_given_out(served: Any, path: str) -> None:
    for start in ("/gradio_api/file=", "/static/", "/assets/", "/svelte/", "/v1/models/"):
        answer = httpx.get(f"{served.url}{start}{path}")
        assert answer.status_code in (400, 403, 404), start
        assert "root:" not in answer.text and "lmapps" not in answer.text.replace("lmapps/", "")


def test_every_answer_has_secure_headers_and_a_name(served: Any) -> None:
    for path in ("/", "/health", "/v1/models", "/nowhere", "/apps/nope", "/metrics"):
        answer = httpx.get(served.url + path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["x-frame-options"] == "DENY"
        policy = answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy and ("script-src 'self'" in policy) == (
            path == "/"
        )
        assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
        assert len(answer.headers["x-request-id"]) == 32
        assert "server" not in answer.headers


def test_the_name_of_a_request_is_taken_over_and_stands_in_its_error(served: Any) -> None:
    answer = httpx.get(f"{served.url}/v1/models/none", headers={"x-request-id": "from-proxy.1"})
    assert answer.headers["x-request-id"] == "from-proxy.1"
    assert answer.json()["error"]["request_id"] == "from-proxy.1"
    odd = httpx.get(f"{served.url}/health", headers={"x-request-id": 'a"b time=0'})
    assert len(odd.headers["x-request-id"]) == 32


def test_a_page_allows_the_scripts_inside_it_and_no_others() -> None:
    html = b"<script>one()</script><script src='x.js'></script><SCRIPT type=module>two()</SCRIPT>"
    policy = policy_of_page(html).decode()
    assert policy.count("'sha256-") == 2 and "unsafe-inline" not in policy.split("style-src")[0]


def test_a_policy_that_an_answer_has_already_is_kept() -> None:
    theirs = (b"content-security-policy", b"sandbox")
    assert [p for p in secured([theirs], b"default-src 'self'") if p[0] == theirs[0]] == [theirs]


def test_too_large_a_request_is_refused_before_and_while_it_arrives(served: Any) -> None:
    for path in ("/gradio_api/queue/join", "/gradio_api/upload", "/v1/completions"):
        answer = raw(served, f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n")
        assert answer.startswith(b"HTTP/1.1 413") and b"larger than" in answer


def endless() -> Iterator[bytes]:
    for _ in range(40):
        yield b" " * 1_000_000


def test_an_event_of_the_page_is_smaller_than_a_file(served: Any) -> None:
    large = b'["' + b"x" * 2_000_000 + b'"]'
    for path in ("queue/join", "run/predict", "cancel"):
        for content in (large, iter([large])):
            answer = httpx.post(f"{served.url}/gradio_api/{path}", content=content)
            assert answer.status_code == 413 and "2,000,000 bytes" in answer.text
    files = {"files": ("a.txt", large)}
    assert httpx.post(f"{served.url}/gradio_api/upload", files=files).status_code == 200


def test_a_body_without_a_stated_length_is_counted(served: Any) -> None:
    kind = {"content-type": "application/json"}
    url = f"{served.url}/gradio_api/queue/join"
    answer = httpx.post(url, content=endless(), timeout=30, headers=kind)
    assert answer.status_code == 413 and "larger than" in answer.json()["error"]["message"]


def test_a_body_that_does_not_arrive_ends(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmapps.server.gate.gate.BODY_SECONDS", 0.3)
    answer = raw(served, "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n", b"{")
    assert answer.startswith(b"HTTP/1.1 408") and b"did not arrive" in answer


@pytest.mark.parametrize("head", [b"", b"GET / HT", b"GET /health HTTP/1.1\r\nHost: a\r\nX: "])
def test_who_says_nothing_or_only_half_is_cut_off_and_others_are_answered(
    served: Any, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmapps.server.gate.connections.HEAD_SECONDS", 0.3)
    silent = [connected(served) for _ in range(20)]
    for one in silent:
        one.sendall(head)
    assert httpx.get(f"{served.url}/health").status_code == 200
    for one in silent:
        with one:
            assert one.recv(100) == b""


def test_a_byte_now_and_then_does_not_keep_a_connection(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmapps.server.gate.connections.HEAD_SECONDS", 0.4)
    with connected(served) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200" in slow.recv(10_000)
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < 10:
                slow.sendall(b"G")
                slow.settimeout(0.1)
                try:
                    if slow.recv(100) == b"":
                        raise ConnectionResetError
                except TimeoutError:
                    continue
        assert time.monotonic() - began < 5


def test_the_connection_that_waits_longest_makes_room(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmapps.server.gate.connections.Connection.most", 10)
    waiting = [connected(served) for _ in range(30)]
    assert httpx.get(f"{served.url}/health").status_code == 200
    assert waiting[0].recv(100) == b""
    for one in waiting:
        one.close()


def test_who_does_not_read_is_cut_off_and_its_slots_are_free(
    served: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "lmapps.requests")
    began = Connection.connection_made

    def with_small_buffers(self: Connection, transport: Any) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        began(self, transport)

    monkeypatch.setattr(Connection, "connection_made", with_small_buffers)
    monkeypatch.setattr("lmapps.server.gate.connections.STALL_SECONDS", 0.3)
    told = {"n": 16, "logprobs": True, "top_logprobs": 20, "stream": True, "max_tokens": 100}
    body = json.dumps({**ASK, **told}).encode()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(20)
        deaf.connect(("127.0.0.1", int(served.url.rsplit(":", 1)[1])))
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
        deaf.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while not any("nobody reads" in str(vars(record)) for record in caplog.records):
            time.sleep(0.01)
        served.wait_until_idle()
        read = b""
        with suppress(ConnectionResetError):
            while part := deaf.recv(100_000):
                read += part
        assert b"200 OK" in read and b"[DONE]" not in read


def test_an_unexpected_failure_is_a_sentence_with_the_requests_name_and_the_log_has_the_rest(
    served: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> Any:
        raise ValueError("a secret of the house")

    monkeypatch.setattr("lmapps.server.api.openai.decoding_of", fail)
    caplog.set_level(logging.ERROR, "lmapps.requests")
    answer = httpx.post(f"{served.url}/v1/chat/completions", json=ASK)
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert error["request_id"] == answer.headers["x-request-id"] in error["message"]
    assert "secret" not in answer.text and "ValueError" in error["message"]
    while not caplog.records:  # the line is written when the answer has left
        time.sleep(0.01)
    (record,) = caplog.records
    assert "a secret of the house" in Lines().format(record)


def test_a_line_of_the_log_is_one_line_and_keeps_secrets_and_prompts() -> None:
    record = logging.LogRecord("lmapps.x", logging.INFO, "f", 1, "two\nlines %s", ("a b",), None)
    record.__dict__ |= {"fields": {"status": 200, "seconds": 0.5}, "private": "what I asked"}
    line = Lines().format(record)
    assert "\n" not in line and 'message="two\\nlines a b"' in line and "status=200" in line
    assert "what I asked" not in line
    assert 'private="what I asked"' in Lines(with_prompts=True).format(record)


def test_a_line_of_the_log_as_json_has_the_same_in_it() -> None:
    record = logging.LogRecord("lmapps.x", logging.INFO, "f", 1, 'said "hi"\n', (), None)
    fields = {"status": 200, "seconds": 0.51239, "token": "hunter22", "url": 'pass="a:hunter22@'}
    secret = {"reason": 'password="hunter22\\" and more'}
    record.__dict__ |= {"fields": fields | secret, "private": "what I asked", "request": "r1"}
    line = Lines(form="json").format(record)
    told = json.loads(line)
    assert "\n" not in line and "what I asked" not in line
    assert (
        told["message"] == 'said "hi"\n' and told["request"] == "r1" and told["from"] == "lmapps.x"
    )
    assert (told["status"], told["seconds"], told["token"]) == (200, 0.5124, "***")
    assert "hunter22" not in told["reason"] and told["level"] == "info" and told["time"][-1] == "Z"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:hunter22@db/lmapps", "Authorization: Bearer hunter22x", "api_key=hunter22",
        '{"password": "hunter22"}', "http://x/?token=hunter22&y", "OPENAI_API_KEY='hunter22'",
        "Cookie: hunter22", "new_password = hunter22",
    ],
)  # fmt: skip
def test_no_secret_reaches_the_log(text: str) -> None:
    assert "hunter22" not in without_secrets(text)
    assert without_secrets("2 tokens=5 of max_tokens 5") == "2 tokens=5 of max_tokens 5"


def connected(served: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(served.url.rsplit(":", 1)[1])), timeout=10)


def raw(served: Any, head: str, body: bytes = b"") -> bytes:
    """The first bytes of an answer to a request that no client library would send."""
    with connected(served) as connection:
        connection.sendall(head.encode() + b"\r\n" + body)
        answer = b""
        while part := connection.recv(10_000):
            answer += part
        return answer


@pytest.mark.parametrize("kind", [None, "application/xml", "application/json", "text/plain"])
@pytest.mark.parametrize("path", ["run/predict", "queue/join", "cancel", "reset"])
def test_a_body_that_is_no_text_is_no_failure_of_ours(
    served: Any, path: str, kind: str | None
) -> None:
    headers = {"content-type": kind} if kind else {}
    for content in (b"\xff\xfe{", b'["\\ud800"]'):
        answer = httpx.post(f"{served.url}/gradio_api/{path}", content=content, headers=headers)
        assert 400 <= answer.status_code < 500
