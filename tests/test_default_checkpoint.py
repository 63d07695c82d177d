"""The checkpoint that comes along: small, whole, and able to greet."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from lmapps.discovery import discover
from lmapps.engine.application import Application
from lmapps.engine.engine import Engine
from lmapps.model.checkpoint import Checkpoint
from lmapps.paths import find_checkpoint

FOLDER = Path(__file__).parent.parent / "checkpoints" / "default"


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.load(find_checkpoint("default"))


def test_it_is_small_and_its_card_and_report_are_true(checkpoint: Checkpoint) -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*")) < 20e6
    config = checkpoint.config
    assert 6e6 <= config.parameters <= 8e6 and 4000 <= config.vocab_size <= 8192
    assert config.context >= 1024
    card = (FOLDER / "README.md").read_text()
    assert f"{config.parameters / 1e6:.2f} million parameters" in card
    report = json.loads((FOLDER / "report.json").read_text())
    assert report["model"]["parameters"] == config.parameters
    assert f"{report['scores']['validation']['loss']:.3f}" in card


def test_it_greets_and_answers_every_application(checkpoint: Checkpoint) -> None:
    asked = {
        "chat": {"messages": "Hello!"},
        "news": {"headline": "Storm closes airport for two days"},
        "code": {"instruction": "Write a function to find the maximum of two numbers."},
        "summarize": {"text": "The council met on Tuesday. It will repair the old bridge."},
    }
    plugins = discover().plugins

    async def answers(engine: Engine) -> dict[str, str]:
        replies = {}
        for name, fields in asked.items():
            plugin = plugins[name]
            decoding = plugin.decoding.replace(temperature=0.0)
            replies[name] = (await Application(plugin, engine).reply(fields, decoding)).reply
        return replies

    with Engine(checkpoint) as engine:
        replies = asyncio.run(answers(engine))
    assert replies["chat"].startswith("Hello")
    assert replies["code"].startswith("def ") and "```" not in replies["code"]
    assert all(len(reply) > 10 for reply in replies.values()), replies
