"""A `LanguageModel` -> the fastest `Step` of this machine: native where it fits, else torch.

Both take ids (B, T) and a state, update the state in place and give the logits after the last
token, (B, V). Shape legend: B rows, T positions, V vocabulary, L layers, K key-value heads,
S places in the cache, D head width, H hidden width.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from lmapps.errors import SettingsError
from lmapps.machine import usable_cores
from lmapps.model.config import GATES
from lmapps.model.language_model import LanguageModel
from lmapps.model.quantize import release_matrices
from lmapps.model.state import KeyValueCache, State
from lmapps.native import WEIGHTS
from lmapps.native.library import Unavailable, level_name, library
from lmapps.native.pages import untouched_zeros
from lmapps.native.shapes import Shapes
from lmapps.native.threads import Threads
from lmapps.native.torch_step import TorchStep

_BODIES = ("transformer", "rnn", "gru", "lstm")  # the order of step.cpp's enum


class Step(Protocol):
    """One step of a model."""

    @property
    def name(self) -> str:
        """What is used, and why not the native one: a line for a person."""

    @property
    def continues(self) -> bool:
        """Whether it can go on from a state by several tokens at once."""

    @property
    def bytes(self) -> int:
        """Memory of weights of its own, beside the model's."""

    @property
    def shapes(self) -> Shapes:
        """The sizes that its steps have."""

    @property
    def threads(self) -> Threads | None:
        """Those that sampling may use between two steps; None where it has none of its own."""

    def new_state(self, batch: int, capacity: int) -> State:
        """An empty state that this step can go on from; prompts are read in its last row."""

    def prepare(self, state: State, tokens: int) -> None:
        """Do beforehand what the first step by so many tokens of these rows would do."""

    def __call__(self, ids_BT: torch.Tensor, state: State) -> torch.Tensor:
        """Logits (B, V) after T more tokens in each row."""


def choose_step(model: LanguageModel, weights: str = "float32", *, served: bool = False) -> Step:
    """A step of this model, for as long as its parameters stay.

    weights  the precision that its matrices are used in: float32 (as they are), bfloat16, int8
    served   nothing else uses the model from now on, as it would a sample of one in training: where
             the step has matrices of its own, the model's are given up. On a GPU it has few shapes,
             compiled and captured beforehand, which takes a minute.

    Raises `SettingsError` for another word.
    """
    if weights not in WEIGHTS:
        raise SettingsError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
    step = _chosen(model, weights, served)
    if served and step.bytes:
        release_matrices(model)
    return step


def _chosen(model: LanguageModel, weights: str, served: bool) -> NativeStep | TorchStep:
    if model.device.type == "cuda":
        is_transformer = model.config.body == "transformer"  # torch.compile knows no nn.LSTM
        return TorchStep(model, weights, fixed=served, compiled=served and is_transformer)
    try:
        return NativeStep(model, weights)
    except Unavailable as reason:
        return TorchStep(model, weights, str(reason))


class NativeStep:
    """The whole step in one call of `libstep.so`, with a packed copy of the model's matrices.

    The copy takes 4, 2 or 1 bytes a weight, beside the model itself; it is made once, so a model
    that is trained on needs a new one. Raises `Unavailable` with the reason.

    level    the number of the instruction set among `levels()`; 0 = the best
    threads  0 = as many as torch uses, and no more than the cores we are given
    """

    continues = True
    shapes = Shapes()

    def __init__(
        self, model: LanguageModel, weights: str = "float32", *, level: int = 0, threads: int = 0
    ) -> None:
        if model.device.type != "cpu":
            raise Unavailable(f"the model is on {model.device}, the native step is for the CPU")
        _refuse_changed_layers(model)
        name = level_name(level)
        self.model, self.config, self.weights = model, model.config, weights
        self._library = library()
        self._pointers: weakref.WeakKeyDictionary[State, _Pointers] = weakref.WeakKeyDictionary()
        self.threads = Threads(threads or min(torch.get_num_threads(), usable_cores()))
        self._embedding_VH = model.embedding.weight.detach().float().numpy()
        self._handle, self.bytes = self._new(level, WEIGHTS.index(weights)), 0
        # Not at the interpreter's end, when the engine's thread may be in the middle of a step.
        weakref.finalize(self, self._library.lmapps_free, self._handle).atexit = False
        with torch.inference_mode():
            self._load()
        self.name = f"native {name}, {weights}, {self.threads.count} threads"

    def new_state(self, batch: int, capacity: int) -> State:
        """Keys and values are in bf16 where the weights are not in fp32: for many streams they
        are more to read than the weights."""
        c = self.config
        if c.body != "transformer":
            return self.model.new_state(batch, capacity)
        dtype = torch.float32 if self.weights == "float32" else torch.bfloat16
        shape = (batch, c.num_kv_heads, capacity, c.head_size)
        layers: list[tuple[torch.Tensor, ...]] = [
            (untouched_zeros(shape, dtype), untouched_zeros(shape, dtype))
            for _ in range(c.num_layers)
        ]
        return KeyValueCache(layers, torch.zeros(batch, dtype=torch.int64), capacity)

    def prepare(self, state: State, tokens: int) -> None:
        """Nothing: the first step is like any other."""

    def __call__(self, ids_BT: torch.Tensor, state: State) -> torch.Tensor:
        # NumPy, where torch would do as well: each of torch's operations lets another thread have
        # the interpreter, and waits to get it back.
        rows, tokens = ids_BT.shape
        # The library trusts what it is given, so nothing here may be an assert, which -O takes out.
        if rows != len(state.lengths):
            raise ValueError(f"{rows} rows of ids for {len(state.lengths)} of state")
        if not rows * tokens:
            raise ValueError(f"there are no ids to go on with: shape {tuple(ids_BT.shape)}")
        pointers = self._pointers.get(state)
        if pointers is None:
            pointers = self._pointers[state] = _Pointers(self.model, state)
        lengths, ids = pointers.lengths, ids_BT.numpy()
        shortest, longest = int(lengths.min()), int(lengths.max()) + tokens
        if shortest < 0 or longest > state.capacity:
            raise ValueError(f"tokens {shortest} to {longest} in a state of {state.capacity}")
        if ids.min() < 0:
            raise IndexError(f"id {ids.min()} is none of the {len(self._embedding_VH)}")
        x_BTH = self._embedding_VH[ids]  # a copy, which is the library's to write in
        logits_BV = np.empty((rows, self.config.vocab_size), np.float32)
        self._library.lmapps_step(
            self._handle, x_BTH.ctypes.data, rows, tokens, pointers.parts, pointers.is_bfloat16,
            state.capacity, lengths.ctypes.data, logits_BV.ctypes.data,
        )  # fmt: skip
        lengths += tokens
        return torch.from_numpy(logits_BV)

    def _new(self, level: int, kind: int) -> int:
        c = self.config
        is_transformer = c.body == "transformer"
        table_SD = _rotations(self.model) if is_transformer else torch.zeros(1, 1)
        shape = (
            _BODIES.index(c.body), kind, c.vocab_size, c.embed_size, c.hidden_size, c.num_layers,
            c.num_heads, c.num_kv_heads, c.head_size, c.intermediate_size, len(table_SD),
        )  # fmt: skip
        handle: int | None = self._library.lmapps_new(
            self.threads.handle, (ctypes.c_int * len(shape))(*shape), c.norm_eps,
            table_SD.data_ptr(), level,
        )  # fmt: skip
        if not handle:
            raise Unavailable("there is not enough memory for a packed copy of the model")
        return handle

    def _load(self) -> None:
        c, head = self.config, self.model.head
        body: Any = self.model.body
        if c.body == "transformer":
            for number, layer in enumerate(body.layers):
                attention, mlp = layer.self_attn, layer.mlp
                projections = (attention.q_proj, attention.k_proj, attention.v_proj)
                matrices = [
                    torch.cat([projection.weight for projection in projections]),
                    attention.o_proj.weight,
                    *(part.weight for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)),
                ]
                for name, matrix in enumerate(matrices):
                    self._matrix(number, name, matrix)
                norms = (layer.input_layernorm, layer.post_attention_layernorm)
                for name, norm in enumerate((*norms, attention.q_norm, attention.k_norm)):
                    if norm is not None:
                        self._vector(number, name, norm.weight)
            self._vector(c.num_layers, 0, body.norm.weight)
        else:
            gates, recurrent = GATES[c.body], body.recurrent
            for number in range(c.num_layers):
                for first, part in ((0, "ih"), (4, "hh")):
                    weight, bias = (
                        getattr(recurrent, f"{kind}_{part}_l{number}").chunk(gates)
                        for kind in ("weight", "bias")
                    )
                    for gate in range(gates):
                        self._matrix(number, first + gate, weight[gate], bias[gate])
        self._matrix(c.num_layers, 0, head.weight, head.bias)

    def _matrix(
        self, layer: int, name: int, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> None:
        _require_numbers(weight, bias)
        weight = weight.float().contiguous()
        bias = None if bias is None else bias.float().contiguous()
        failed = self._library.lmapps_matrix(
            self._handle, layer, name, weight.data_ptr(), *weight.shape,
            None if bias is None else bias.data_ptr(),
        )  # fmt: skip
        if failed:
            raise Unavailable("there is not enough memory for a packed copy of the model")
        self.bytes += weight.numel() * (4, 2, 1)[WEIGHTS.index(self.weights)]

    def _vector(self, layer: int, name: int, vector: torch.Tensor) -> None:
        _require_numbers(vector)
        vector = vector.float().contiguous()
        if self._library.lmapps_vector(self._handle, layer, name, vector.data_ptr(), len(vector)):
            raise Unavailable("there is not enough memory for a packed copy of the model")


class _Pointers:
    """Where the tensors of a state are; checked once, since a state keeps its tensors."""

    def __init__(self, model: LanguageModel, state: State) -> None:
        c, rows = model.config, len(state.lengths)
        is_cache = c.body == "transformer"
        shape: tuple[int, ...] = (rows, c.hidden_size)
        if is_cache:
            shape = (rows, c.num_kv_heads, state.capacity, c.head_size)
        parts = [part for layer in state.layers for part in layer]
        expected = c.num_layers * (2 if c.body in ("transformer", "lstm") else 1)
        types = {part.dtype for part in parts}
        allowed = (torch.float32, torch.bfloat16) if is_cache else (torch.float32,)
        _require(len(parts) == expected, f"{len(parts)} tensors, not {expected}")
        _require(len(types) == 1 and types <= set(allowed), f"tensors of {types}")
        for part in parts:
            _require(part.shape == shape, f"a tensor of {tuple(part.shape)}, not {shape}")
            _require(part.is_contiguous() and part.device.type == "cpu", "a tensor not as it lies")
        lengths = state.lengths
        _require(lengths.dtype == torch.int64 and lengths.is_contiguous(), "lengths not in int64")
        _require(not is_cache or state.capacity <= c.context, "more places than positions")
        self.lengths = lengths.numpy()  # the same memory
        self.is_bfloat16 = int(torch.bfloat16 in types)
        self.parts = (ctypes.c_void_p * len(parts))(*(part.data_ptr() for part in parts))


def _require_numbers(*weights: torch.Tensor | None) -> None:
    """Torch's own step shows them in its logits, which the engine refuses; int8 has no way to."""
    if not all(weight is None or weight.isfinite().all() for weight in weights):
        raise Unavailable("the model has weights that are no numbers")


def _require(is_right: bool, wrong: str) -> None:
    if not is_right:
        raise ValueError(f"the native step cannot use this state: it has {wrong}")


def _refuse_changed_layers(model: LanguageModel) -> None:
    """Adapters (peft's LoRA), shards and parametrizations put layers of their own, or tensors of
    their own, in the place of torch's: what they add to a weight is not in it."""
    for name, module in model.named_modules():
        kind = type(module)
        if not kind.__module__.startswith(("lmapps.model.", "torch.nn.modules.")):
            raise Unavailable(f"{name or 'the model'} is a {kind.__name__}, not a layer of ours")
    for name, parameter in model.named_parameters():
        if type(parameter) is not nn.Parameter or type(parameter.data) is not torch.Tensor:
            raise Unavailable(f"{name} is a {type(parameter.data).__name__}, not a plain tensor")


def _rotations(model: LanguageModel) -> torch.Tensor:
    """cos and sin of every position, (context, D): the numbers of `Positions`, to the last bit."""
    c = model.config
    half = torch.arange(0, c.head_size, 2, dtype=torch.float32)
    frequencies = 1.0 / c.rope_theta ** (half / c.head_size)
    angles = torch.arange(c.context)[:, None].float() * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1).contiguous()
