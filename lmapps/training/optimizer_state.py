"""What optimizers keep -> named tensors to save, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from lmapps.training.parallel import like, whole_on_cpu


def state_of(optimizers: Iterable[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    """Optimizer state as whole named tensors, `optimizer.parameter.name`, on the CPU.

    All processes must call it.
    """
    tensors = {}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"{number}.{index}.{name}"] = whole_on_cpu(torch.as_tensor(value))
    return tensors


def restore(tensors: dict[str, torch.Tensor], optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Put them back, whole or in shards as the weights are."""
    weights = [[w for g in optimizer.param_groups for w in g["params"]] for optimizer in optimizers]
    states: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in optimizers]
    for key, tensor in tensors.items():
        number, index, name = key.split(".", 2)
        split = like(tensor, weights[int(number)][int(index)])
        states[int(number)].setdefault(int(index), {})[name] = split
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(
            {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
        )
