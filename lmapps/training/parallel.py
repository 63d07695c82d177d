"""A model and its optimizers -> the same over several processes: copies (DDP) or shards (FSDP2).

With copies, every process holds the whole model and gradients are averaged. With shards
(`--shard`; Zhao et al., "PyTorch FSDP", 2023, in the form of torch's `fully_shard`), every process
holds its part of the weights, gradients and optimizer state, and layers are put together only
while they compute. With adapters (`--lora`) what is trained is a model beside the whole one too.
`checkpoint.model` stays whole in every process: evaluation, samples and files read it, and
`gather` brings it up to date.

Muon on shards: its momentum is kept in shards; the orthogonalisation needs whole matrices, so
torch's DTensor collects each one for the Newton-Schulz steps, which every process computes alike.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from lmapps.errors import SettingsError
from lmapps.model.language_model import LanguageModel
from lmapps.training.adapters import add_adapters, merge_adapters
from lmapps.training.optimizer import build_optimizers
from lmapps.training.settings import TrainSettings


def distribute(
    model: LanguageModel, settings: TrainSettings, accelerator: Accelerator
) -> tuple[Any, list[Any]]:
    """The module to call with `(ids, targets)`, and its optimizers, ready to step."""
    if accelerator.distributed_type == DistributedType.FSDP:
        raise SettingsError(
            "the Accelerate config asks for FSDP: choose a plain multi-process config, and let "
            "`lmapps train --shard` split the model"
        )
    if settings.lora:
        adapted = add_adapters(settings)
        prepared, *optimizers = accelerator.prepare(adapted, *build_optimizers(adapted, settings))
        model.to(accelerator.device)
        return prepared, optimizers
    if not settings.shard:
        prepared, *optimizers = accelerator.prepare(model, *build_optimizers(model, settings))
        return prepared, optimizers
    sharded = shard(copy.deepcopy(model), accelerator)
    model.to(accelerator.device)
    return sharded, [accelerator.prepare(o) for o in build_optimizers(sharded, settings)]


def shard(model: LanguageModel, accelerator: Accelerator) -> LanguageModel:
    """Each layer a unit of its own, and what is left (embedding, head, norm) another."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if accelerator.num_processes < 2:
        raise SettingsError(
            "--shard splits a model over several processes, got one: start it with "
            "`torchrun --nproc_per_node 2 -m lmapps train ...`"
        )
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    model.to(accelerator.device)
    for layer in getattr(model.body, "layers", [model.body]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def gather(prepared: Any, model: LanguageModel) -> None:
    """Bring `model`, whole and without adapters, up to date. All processes must call it."""
    plain = dict(model.named_parameters())
    with torch.no_grad():
        merge_adapters(prepared, plain)
        for name, weight in prepared.named_parameters():
            if isinstance(weight, DTensor):
                plain[name].copy_(whole(weight))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A shard's whole; any other tensor as it is. All processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """The same on the CPU, ready to be written to a file."""
    return whole(tensor).detach().cpu().contiguous()


def like(tensor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A whole tensor, split as a weight of its shape is."""
    if not isinstance(weight, DTensor) or tensor.shape != weight.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(
        tensor.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None
    )
