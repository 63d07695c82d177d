"""A `LanguageModel` -> its step by torch: of any shape, or of few that a GPU captures beforehand.

On a GPU a step of a small model is bound by starting its kernels. There it has one of a few fixed
`Shapes`; each is compiled (`torch.compile` fuses what lies between the matrix products) and
captured as a CUDA graph before anybody asks for it. The same path runs on a CPU, where it is
tested: only the capturing is left out. Shape legend: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

import threading
from typing import Any

import torch

from lmapps.model.language_model import LanguageModel
from lmapps.model.quantize import rounded
from lmapps.model.state import Reach, State
from lmapps.native.graph import Graph
from lmapps.native.shapes import Shapes

MOST_COMPILED = 128
_compiling = threading.Lock()


class TorchStep:
    """The model's own `step`.

    reason    why it is not the native one, for a person
    fixed     in the few sizes of `Shapes.fixed`; then it is for one state only
    compiled  by `torch.compile`; where that fails it goes on without, and its name says so
    """

    continues = True
    threads = None

    def __init__(
        self, model: LanguageModel, weights: str = "float32", reason: str = "", *,
        fixed: bool = False, compiled: bool = False,
    ) -> None:  # fmt: skip
        has_them = weights == "float32" or model.head.weight.dtype == getattr(torch, weights, None)
        self.model = model if has_them else rounded(model, weights)
        own = _tensors(self.model) - _tensors(model)
        self.bytes = sum(part.nbytes for part in own)
        self.shapes = Shapes()
        self._fixed, self._weights, self._reasons = fixed, weights, [reason] if reason else []
        self._is_compiled = compiled
        self._run: Any = _compiled(self._step) if compiled else self._step
        self._is_captured = fixed and self.model.device.type == "cuda"
        self._pool = torch.cuda.graph_pool_handle() if self._is_captured else None
        self._graphs: dict[tuple[State, int, int], Graph] = {}

    @property
    def name(self) -> str:
        """What is used: a line for a person."""
        device = self.model.device
        parts = [
            "torch" if device.type == "cpu" else f"torch on {device}",
            self._weights,
            *(["compiled"] if self._is_compiled else []),
            *(["CUDA graphs"] if self._is_captured else []),
        ]
        return ", ".join(parts) + (f" ({'; '.join(self._reasons)})" if self._reasons else "")

    def new_state(self, batch: int, capacity: int) -> State:
        """Its last row is the one that prompts are read in: it is never filled up to."""
        state = self.model.new_state(batch, capacity)
        if self._fixed:
            self.shapes = Shapes.fixed(batch - 1, capacity, has_places=state.divisible)
        return state

    def prepare(self, state: State, tokens: int) -> None:
        """Compile and capture steps by so many tokens of these rows, which are empty and hold
        anything afterwards. What cannot be captured will be run as it is."""
        try:
            for span in self.shapes.spans(tokens) if self._fixed else ():
                self._prepare(state, tokens, span)
        except RuntimeError as error:  # of the compiler, the driver, or memory
            self._reasons.append(f"{type(error).__name__}: {str(error).strip()[:120]}")
            if self._is_compiled:
                self._is_compiled, self._run = False, self._step
                self.prepare(state, tokens)
            else:
                self._is_captured = False

    def __call__(self, ids_BT: torch.Tensor, state: State) -> torch.Tensor:
        """Logits (B, V) after T more tokens in each row; a later step may write over them."""
        if not self._fixed:
            return self.model.step(ids_BT.to(self.model.device), state)[0]
        tokens = ids_BT.shape[1]
        longest = int(state.lengths.max()) + tokens
        if longest > state.capacity:
            raise ValueError(f"{longest} tokens in a state of {state.capacity}")
        span = self.shapes.span(longest)
        graph = self._graphs.get((state, tokens, span))
        if graph:
            logits_BV = graph(ids_BT, state.lengths)
        else:
            device = self.model.device
            logits_BV = self._run(ids_BT.to(device), state.lengths.to(device), state, span)
        state.lengths += tokens
        return logits_BV

    def _step(
        self, ids_BT: torch.Tensor, lengths_B: torch.Tensor, state: State, span: int
    ) -> torch.Tensor:
        return self.model.step(ids_BT, state, reach=Reach(lengths_B, span))[0]

    def _prepare(self, state: State, tokens: int, span: int) -> None:
        rows, device = len(state.lengths), self.model.device
        if self._is_captured:
            self._graphs[state, tokens, span] = Graph(
                lambda ids_BT, lengths_B: self._run(ids_BT, lengths_B, state, span),
                rows, tokens, device, self._pool,
            )  # fmt: skip
        elif self._is_compiled:
            ids_BT = torch.zeros(rows, tokens, dtype=torch.int64, device=device)
            with _compiling:
                self._run(ids_BT, ids_BT[:, 0].clone(), state, span)


def _tensors(model: LanguageModel) -> set[torch.Tensor]:
    return {*model.parameters(), *model.buffers()}


def _compiled(step: Any) -> Any:
    """All of it in one graph, or an error: nothing of it may be left to Python without being told.
    Each model and each GPU needs some of the compiler's places for the same code."""
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, MOST_COMPILED)
    return torch.compile(step, dynamic=True, fullgraph=True)
