"""A reply that is there can be scored: each token's probability, as one pass over it gives it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lmapps.decoding import Decoding
from lmapps.engine.backends.openai import OpenAIBackend
from lmapps.engine.engine import Engine
from lmapps.engine.scoring import Score, ScoredToken, reply_ids
from lmapps.errors import InputError
from lmapps.messages import Messages

ASK: Messages = [{"role": "user", "content": "Where is the cat?"}]
REPLY = "The cat sat on the mat. 今天"


@pytest.mark.parametrize("body", ["gru", "transformer"])
def test_a_score_is_what_one_pass_over_the_whole_text_gives(
    body: str, tiny_checkpoint: Callable[[str], Any]
) -> None:
    checkpoint = tiny_checkpoint(body)
    with Engine(checkpoint, slots=2) as engine:
        score = asyncio.run(engine.score(ASK, REPLY))
    ids = reply_ids(ASK, REPLY, checkpoint.template)
    before = checkpoint.template.prompt_ids(ASK)
    with torch.inference_mode():
        logits = checkpoint.model(torch.tensor([before + ids]))[0, len(before) - 1 : -1].double()
    expected = logits.log_softmax(-1)
    told = [token.probability for token in score.tokens]
    wanted = [math.exp(expected[n, number]) for n, number in enumerate(ids)]
    assert [token.id for token in score.tokens] == ids
    assert told == pytest.approx(wanted, rel=1e-3)
    for place, token in enumerate(score.tokens):
        top = expected[place].exp().topk(5).values.tolist()
        assert [share for _, share in token.top] == pytest.approx(top, rel=1e-3)
    text = torch.tensor([math.log(p) for p in wanted[:-1]])  # the last id ends the reply
    assert score.perplexity == pytest.approx(math.exp(-text.mean()), rel=1e-3)
    assert "".join(token.text for token in score.tokens[:-1]) == REPLY
    assert score.tokens[-1].control and not score.tokens[0].control


def test_scoring_runs_beside_replies_and_leaves_them_as_they_are(
    endless_checkpoint: Callable[[str], Any],
) -> None:
    decoding = Decoding(temperature=0.9, seed=4, max_new_tokens=30)
    with Engine(endless_checkpoint("transformer"), slots=2) as engine:
        prompt = engine.render(ASK)
        alone = asyncio.run(engine.complete(prompt, decoding)).text

        async def both() -> Any:
            return await asyncio.gather(
                engine.complete(prompt, decoding), engine.score(ASK, REPLY, "page 1")
            )

        reply, score = asyncio.run(both())
    assert reply.text == alone and len(score.tokens) > 5


def test_an_empty_or_very_improbable_reply_has_a_perplexity_that_can_be_shown(
    tiny_checkpoint: Callable[[str], Any],
) -> None:
    with Engine(tiny_checkpoint("gru")) as engine:
        assert math.isnan(asyncio.run(engine.score(ASK, "")).perplexity)
    never = ScoredToken(1, "x", False, 0.0, ())
    assert math.isfinite(Score((never,)).perplexity)


def test_of_another_servers_model_it_is_said_that_it_is_not_known() -> None:
    backend = OpenAIBackend("far", "http://127.0.0.1:9/v1", "m")
    with pytest.raises(InputError, match="is not known of the model 'far'"):
        asyncio.run(backend.score(ASK, REPLY))


def test_of_a_long_prompt_it_is_told_how_much_is_read(
    endless_checkpoint: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmapps.engine import scheduler

    monkeypatch.setattr(scheduler, "PREFILL_TOKENS", 16)
    with Engine(endless_checkpoint("gru")) as engine:
        prompt = engine.render([{"role": "user", "content": "The cat sat on the mat. " * 8}])
        assert 32 < len(prompt) < 100

        async def told() -> list[tuple[int, int]]:
            stream = engine.stream(prompt, Decoding(max_new_tokens=2))
            return [delta.read async for delta in stream if delta.read]

        read = asyncio.run(told())
    done, chunks = [done for done, _ in read], range(16, len(prompt), 16)
    assert done == sorted(set(done)) and set(done) <= set(chunks)
    assert done[-1] == chunks[-1]  # a reader who is behind is told of the last alone
    assert {total for _, total in read} == {len(prompt)}
