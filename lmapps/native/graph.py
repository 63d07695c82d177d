"""A step of one shape on a GPU -> captured once as a CUDA graph, then replayed.

A replay is one call for hundreds of kernels, which read and write where they did when they were
captured: so its inputs are copied into a tensor that stays, and the state is one that never moves.
Shape legend: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

Run = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Ids (B, T) and lengths (B,) on the GPU -> logits (B, V). The same work for the same shape."""
WARM_UPS = 2
"""Before it is captured a step is run so often: kernels are compiled and chosen, and libraries
take the memory that they work in."""
_one_at_a_time = threading.Lock()


class Graph:
    """One shape of a step. Made and replayed by one thread, whose current device is the GPU's.

    pool  memory that all graphs of a model share, since one runs at a time
    """

    def __init__(self, run: Run, rows: int, tokens: int, device: torch.device, pool: Any) -> None:
        self._inputs = torch.zeros(rows, 1 + tokens, dtype=torch.int64, device=device)
        lengths_B, ids_BT = self._inputs[:, 0], self._inputs[:, 1:]
        # On a stream of its own, as torch's notes on CUDA graphs have it. Another thread may load
        # a model or serve one meanwhile, so that only this thread is held to what can be captured.
        stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with _one_at_a_time:
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    run(ids_BT, lengths_B)
            torch.cuda.current_stream(device).wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
                self._logits_BV = run(ids_BT, lengths_B)

    def __call__(self, ids_BT: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """Logits (B, V), until the next replay of any graph; inputs are on the CPU."""
        # From memory that is not pinned: it may be used again as soon as the call returns.
        self._inputs.copy_(torch.cat((lengths_B[:, None], ids_BT), dim=1), non_blocking=True)
        self._graph.replay()
        return self._logits_BV
