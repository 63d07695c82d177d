"""The command that our documentation shows: curl itself, as it is installed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from typing import Any

import pytest

from tests.conftest import missing

ASK = json.dumps({"messages": [{"role": "user", "content": "Where is the cat?"}], "max_tokens": 40})
STREAMED = json.dumps({**json.loads(ASK), "stream": True})


@pytest.fixture(scope="module")
def curl() -> list[str]:
    """The program, which says nothing of its own."""
    program = shutil.which("curl")
    if not program:
        missing("curl is not installed: `apt-get install curl` for these tests")
    return [program, "--silent", "--show-error", "--max-time", "60"]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_a_reply_comes_whole_and_a_form_without_a_content_type(
    curl: list[str], served: Any
) -> None:
    done = run(*curl, f"{served.url}/v1/chat/completions", "-d", ASK)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert answer["usage"]["completion_tokens"] == 40
    assert answer["choices"][0]["message"]["content"]
    form = json.dumps({"text": "A long text ...", "length": "one sentence"})
    done = run(*curl, f"{served.url}/apps/summarize", "-d", form)
    assert json.loads(done.stdout)["completion_tokens"] > 0


def test_a_stream_is_shown_as_it_is_written(curl: list[str], served: Any, leaving: Any) -> None:
    words = [*curl, "-N", f"{served.url}/v1/chat/completions", "-d", STREAMED]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout
        first = asking.stdout.readline()
        assert served.engine.running == 1, "the first piece is there before the reply has ended"
        rest = asking.stdout.read().split("\n\n")
    assert asking.returncode == 0
    assert json.loads(first.removeprefix("data: "))["object"] == "chat.completion.chunk"
    assert len(rest) > 10 and rest[-2:] == ["data: [DONE]", ""]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout and asking.stdout.readline()
        left = leaving(served)
        asking.send_signal(signal.SIGINT)
    left.frees_its_slot()


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/chat/completions", '{"messages": []}', 400, "at least one message"),
        ("/v1/chat/completions", ASK.replace("40", '"many"'), 400, "max_new_tokens must be"),
        ("/v1/completions", '{"model": "gpt-4", "prompt": "x"}', 404, "no model 'gpt-4'"),
        ("/v1/completions", json.dumps({"prompt": "a cat " * 300}), 413, "the prompt has"),
    ],
)
def test_what_is_wrong_is_a_status_and_a_sentence(
    curl: list[str], served: Any, path: str, body: str, status: int, words: str
) -> None:
    for asked in (body, '{"stream": true, ' + body[1:]):
        done = run(
            *curl, "--fail-with-body", "-w", "\n%{http_code}", served.url + path, "-d", asked
        )
        assert done.returncode == 22, "curl's own word for an answer from 400 on"
        told, code = done.stdout.rsplit("\n", 1)
        assert int(code) == status and words in json.loads(told)["error"]["message"]
