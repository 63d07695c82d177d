"""The command line: what each command prints, and one sentence for whatever is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmapps.__main__ import COMMANDS, main
from lmapps.model.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def folder(
    tiny_checkpoint: Callable[[str], Checkpoint], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    tiny_checkpoint("gru").save(folder)
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_answers_without_loading_torch_or_gradio(words: list[str]) -> None:
    program = (
        "import sys; from lmapps.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'gradio', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program, *words], check=True, capture_output=True)


def test_generate_prints_the_continuation_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "--checkpoint", folder, "--temperature", "0", "--max-new-tokens", "8"]
    code, out, err = run(capsys, *words, "The cat")
    assert (code, err) == (0, "") and out.strip()
    assert run(capsys, *words, "The cat")[1] == out


def test_run_runs_a_plugin_and_reads_a_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "article.txt").write_text("The cat sat on the mat.")
    words = ["run", "summarize", "--text", f"@{tmp_path / 'article.txt'}", "--length", "a headline"]
    code, out, err = run(capsys, *words, "--checkpoint", folder, "--seed", "1")
    assert code == 0 and out.strip() and not err


def test_run_explains_what_the_model_would_be_given(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "news", "--headline", "Rain <|end|>", "--checkpoint", folder, "--explain"]
    code, out, err = run(capsys, *words, "--temperature", "0")
    assert code == 0 and not err
    assert out.startswith("<|endoftext|><|user|>Write a news report")
    assert "Rain <|end|><|end|><|assistant|>\n" in out
    assert "decoding: temperature = 0" in out and "no_repeat_ngram = 6" in out
    assert out.count("'<|end|>' *") == 1, "the one in the headline is text"


def test_data_reports_and_writes_a_corpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("今天天气很好。 The cat sat. " * 300)
    code, out, _ = run(capsys, "data", tmp_path / "a.txt", "--vocab-size", "300", "--json")
    assert code == 0 and json.loads(out)["documents"] == 1
    out_folder = tmp_path / "corpus"
    code, out, _ = run(
        capsys, "data", tmp_path / "a.txt", "--vocab-size", "300", "--out", out_folder
    )
    assert code == 0 and "bytes per token" in out and any(out_folder.rglob("*.json"))


def test_evaluate_scores_text_and_plugins(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "held.txt").write_text("The cat sat on the mat. " * 30)
    code, out, _ = run(capsys, "evaluate", folder, "--data", tmp_path / "held.txt", "--json")
    scores = json.loads(out)[str(folder)]["text"]
    assert code == 0 and scores["perplexity"] > 1 and scores["bits_per_byte"] > 0
    record = {"headline": "Rain", "body": "Rain fell.", "source": "wikinews"}
    (tmp_path / "news.jsonl").write_text("\n".join([json.dumps(record)] * 3))
    data = f"news={tmp_path / 'news.jsonl'}"
    code, out, _ = run(
        capsys, "evaluate", folder, "--apps", "news", "--data", data, "--limit", "2", "--json"
    )
    assert code == 0 and json.loads(out)[str(folder)]["news"]["examples"] == 2
    code, _, err = run(capsys, "evaluate", folder, "--apps", "news", "--data", data, "--held-out")
    assert code == 2 and "'news' on these files holds no example out" in err


def test_fine_tuning_goes_through_the_plugins_prompts(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"instruction": "Add.", "code": "def add(a, b):\n    return a + b\n"}
    (tmp_path / "code.jsonl").write_text("\n".join([json.dumps(record)] * 20))
    (folder / "report.json").write_text('{"steps": 7}')
    words: list[str | Path] = ["train", "--from", folder, "--apps", "chat,code", "--steps", "4"]
    words += ["--data", f"code={tmp_path / 'code.jsonl'}", "--out", tmp_path / "tuned"]
    words += ["--batch-tokens", "256", "--micro-batch-tokens", "256", "--evaluations", "1"]
    code, out, _ = run(capsys, *words)
    assert code == 0 and "validation: loss" in out
    report = json.loads((tmp_path / "tuned" / "report.json").read_text())
    assert report["before"] == {"steps": 7}
    code, out, _ = run(capsys, "generate", "--checkpoint", tmp_path / "tuned", "Hello")
    assert code == 0


def test_plugins_and_doctor_say_what_is_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path))
    code, out, _ = run(capsys, "plugins")
    assert code == 0 and all(name in out for name in ("chat", "news", "code", "summarize"))
    code, out, _ = run(capsys, "doctor", "--checkpoint", folder)
    assert code == 0 and str(tmp_path) in out and "gru" in out and "training" in out
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "bad.py").write_text("1 / 0")
    code, out, _ = run(capsys, "plugins")
    assert "bad.py, line 1: ZeroDivisionError" in out
    assert run(capsys, "doctor", "--checkpoint", folder)[0] == 1


def bad_files(folder: Path) -> None:
    (folder / "empty.txt").write_text("")
    (folder / "binary.txt").write_bytes(b"\0\1\2")
    (folder / "latin.txt").write_bytes(b"na\xefve")
    (folder / "good.txt").write_text("The cat sat on the mat. " * 100)
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "config.json").write_text('{"model_type": "t5"}')


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train --data {}/empty.txt --out {}/out", "empty.txt is empty"),
        ("train --data {}/binary.txt --out {}/out", "is a binary file"),
        ("train --data {}/latin.txt --out {}/out", "not UTF-8"),
        ("train --data {}/nowhere --out {}/out", "there is no file or folder {}/nowhere"),
        ("train --data {}/good.txt --size huge --out {}/out", "tiny, small, base, large"),
        ("train --data {}/good.txt --model cnn --out {}/out", "rnn, gru, lstm, transformer"),
        ("train --data {}/good.txt --steps -1 --out {}/out", "steps must be between"),
        ("train --data {}/good.txt", "no folder for the checkpoint"),
        ("train --out {}/out", "no data"),
        ("train --apps chat --from {}/nowhere --out {}/out", "no checkpoint folder"),
        ("train --from {TINY} --apps nope --out {}/out", "there is no plugin 'nope'; known: chat"),
        ("train --recipe {}/nowhere.toml --out {}/out", "there is no recipe"),
        ("evaluate {TINY}", "nothing to evaluate on"),
        ("evaluate {TINY} --data {}/empty.txt", "empty.txt is empty"),
        ("generate --checkpoint {}/nowhere x", "there is no checkpoint folder {}/nowhere"),
        ("generate --checkpoint {}/broken x", "config.json cannot be read"),
        ("generate --checkpoint {}/foreign x", "type 't5' are not supported"),
        ("generate --checkpoint {}/good.txt x", "no checkpoint folder|not a checkpoint"),
        ("generate --checkpoint {TINY} --temperature -1 x", "between 0 and 2, got -1"),
        ("generate --checkpoint {TINY} --max-new-tokens 0 x", "max_new_tokens must be"),
        ("generate --checkpoint {TINY} {LONG}", "the prompt has [0-9]+ tokens"),
        ("run nope", "there is no plugin 'nope'; known: chat, code, news, summarize"),
        ("run summarize", "--text"),
        ("run summarize --text @{}/nowhere.txt", "cannot read the file"),
        ("run summarize --text @{}/latin.txt", "not UTF-8"),
        ("run summarize --text x --length long", "length must be one of 'a headline'"),
        ("run news --headline x --temperature 3", "temperature must be between 0 and 2, got 3"),
        ("data {}/empty.txt", "empty.txt is empty"),
        ("data {}/good.txt --vocab-size 3", "vocab_size must be between"),
        ("serve --port 0", "port must be between 1 and 65535, got 0"),
        ("serve --port 47831 --checkpoint {}/nowhere", "no checkpoint folder"),
        ("fly", "invalid choice: 'fly'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_two(
    line: str, words: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    bad_files(tmp_path)
    names = {"{}": str(tmp_path), "{TINY}": str(folder)}
    given = []
    for word in line.split():
        for name, value in names.items():
            word = word.replace(name, value)
        given.append("the cat " * 300 if word == "{LONG}" else word)
    before = sorted(tmp_path.rglob("*"))
    code, _, err = run(capsys, *given)
    assert code == 2, err
    assert re.search(words.replace("{}", re.escape(str(tmp_path))), err), err
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_app_py_is_the_same_as_serve() -> None:
    app = Path(__file__).parents[2] / "app.py"
    said = subprocess.run(
        [sys.executable, app, "--port", "0"], capture_output=True, text=True, check=False
    )
    assert said.returncode == 2
    assert "port must be between 1 and 65535, got 0" in said.stderr
