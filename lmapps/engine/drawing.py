"""Logits of a step and its requests -> the next id of each, or why that one has none.

`sampling.sample` says what is drawn. Where the native library is, it draws for all requests in one
call that takes a tenth of the time and holds no lock of Python's. Shape legend: B requests,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from lmapps.engine.request import Request
from lmapps.engine.sampling import Floats, Ids, changes, sample
from lmapps.errors import LmappsError
from lmapps.native.library import Unavailable
from lmapps.native.sampler import Row, Sampler
from lmapps.native.threads import Threads

Logits = npt.NDArray[np.float32]


class Drawing:
    """Draws for one vocabulary, with the threads of a step between two steps. One thread only."""

    def __init__(self, vocab_size: int, threads: Threads | None = None) -> None:
        self._vocab_size = vocab_size
        self._sampler: Sampler | None = None
        with suppress(Unavailable):
            self._sampler = Sampler(vocab_size, threads)

    def __call__(self, logits_BV: Logits, requests: Sequence[Request]) -> list[int | LmappsError]:
        logits_BV = logits_BV[:, : self._vocab_size]
        drawn: list[int | LmappsError] = list(self._native(logits_BV, requests))
        for row, request in enumerate(requests):
            if drawn[row] == -1:
                drawn[row] = _sampled(logits_BV[row], request)
        return drawn

    def _native(self, logits_BV: Logits, requests: Sequence[Request]) -> list[int]:
        """-1 where it is not drawn: without a library, where a regex or schema allows few of all
        ids, and where the logits are no numbers."""
        if self._sampler is None:
            return [-1] * len(requests)
        rows: list[Row] = []
        ids: list[Ids] = []
        values: list[Floats] = []
        for number, request in enumerate(requests):
            if request.is_constrained:
                continue
            decoding, changed, banned = request.decoding, 0, 0
            if not request.is_plain:
                where, others = changes(
                    logits_BV[number], decoding, request.seen, request.generated
                )
                ruled_out = request.completing
                ids += [where, np.array([*ruled_out], np.int64)]
                values.append(others)
                changed, banned = len(where), len(ruled_out)
            rows.append(
                Row(
                    number, decoding.top_k, decoding.temperature, decoding.top_p, decoding.min_p,
                    request.random.random(), changed, banned,
                )
            )  # fmt: skip
        changes_of_all = (np.concatenate(ids), np.concatenate(values)) if ids else ()
        drawn = iter(self._sampler(logits_BV, rows, *changes_of_all))
        return [-1 if request.is_constrained else next(drawn) for request in requests]


def _sampled(logits_V: Logits, request: Request) -> int | LmappsError:
    try:
        return sample(
            logits_V, request.decoding, request.random, request.seen, request.generated,
            request.allowed(),
        )  # fmt: skip
    except LmappsError as error:  # this request's alone
        return error
