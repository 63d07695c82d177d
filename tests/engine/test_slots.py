"""Rows of the batch: a prompt is read where its request will run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lmapps.decoding import Decoding
from lmapps.engine.request import Request
from lmapps.engine.slots import Slots
from lmapps.model.config import BODIES
from lmapps.native.step import choose_step

TEXTS = ("The cat", "A dog ran up the hill", "And then", "Rain")


@pytest.mark.parametrize("body", BODIES)
@torch.inference_mode()
def test_a_request_joins_without_a_copy_unless_somebody_has_left_meanwhile(
    tiny_checkpoint: Callable[[str], Any], body: str
) -> None:
    checkpoint = tiny_checkpoint(body)
    slots = Slots(checkpoint.model, 3, choose_step(checkpoint.model))
    moved = list[tuple[int, int]]()
    move = slots.state.move

    def noted(source: int, target: int) -> None:
        moved.append((source, target))
        move(source, target)

    slots.state.move = noted  # type: ignore[method-assign]

    def read(text: str) -> Request:
        ids = checkpoint.tokenizer.prompt_ids(text)
        request = Request(ids, Decoding(), 9, checkpoint.tokenizer, print)
        slots.open(request)
        slots.prefill(request, 64)
        request.generated.append(5)
        return request

    for text in TEXTS[:2]:
        slots.join(read(text))
    assert moved == []
    third = read(TEXTS[2])
    slots.leave(0)
    slots.join(third)
    assert moved == [(1, 0), (2, 1)] and int(slots.state.lengths[2]) == 0
    alone = Slots(checkpoint.model, 1, choose_step(checkpoint.model))
    alone.prefill(same := Request(third.prompt_ids, Decoding(), 9, checkpoint.tokenizer, print), 64)
    same.generated.append(5)
    alone.join(same)
    assert torch.allclose(slots.decode()[1], alone.decode()[0], atol=1e-5)

    read(TEXTS[3])  # it is given up: nothing of it is left where the next one is read
    slots.leave(0)
    slots.open(Request(third.prompt_ids, Decoding(), 9, checkpoint.tokenizer, print))
    assert slots.state.lengths.tolist()[1:] == [0, 0, 0]
