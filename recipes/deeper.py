"""A trained Transformer -> one with more layers that says the same, to be trained further.

    python recipes/deeper.py checkpoints/default runs/deeper --layers 8 --context 1024

Behind each layer stand copies of it whose last matrices are zero: they add nothing to the residual
stream until they have learned something, so that nothing is unlearned (block expansion: Wu et al.,
LLaMA Pro, 2024). More context needs no new weights, as positions are rotations.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any, cast

import torch

from lmapps.errors import SettingsError
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.language_model import LanguageModel
from lmapps.model.transformer import TransformerBody


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", help="folder of the trained checkpoint")
    parser.add_argument("target", help="folder for the deeper one")
    parser.add_argument("--layers", type=int, required=True, help="a multiple of what it has")
    parser.add_argument("--context", type=int, default=0, help="0 = as it is")
    args = parser.parse_args()
    checkpoint = Checkpoint.load(args.source)
    checkpoint.model = deeper(checkpoint.model, args.layers, args.context)
    checkpoint.save(args.target)
    report = Path(args.source) / "report.json"
    if report.is_file():  # how it was trained so far: the next run's report has it
        shutil.copy(report, args.target)


def deeper(model: LanguageModel, layers: int, context: int = 0) -> LanguageModel:
    """`model` with `layers` layers and the same logits. Raises `SettingsError` where `layers` is no
    multiple of what `model` has, or it is no Transformer."""
    config = model.config
    if not isinstance(model.body, TransformerBody):
        raise SettingsError(f"only a transformer can be made deeper, not a {config.body}")
    times, rest = divmod(layers, config.num_layers)
    if rest or not times:
        raise SettingsError(f"--layers must be a multiple of {config.num_layers}, got {layers}")
    grown = LanguageModel(config.changed(num_layers=layers, context=context or config.context))
    old, new = cast(Any, model.body), cast(Any, grown.body)
    grown.embedding.load_state_dict(model.embedding.state_dict())
    grown.head.load_state_dict(model.head.state_dict())
    new.norm.load_state_dict(old.norm.state_dict())
    for number, layer in enumerate(new.layers):
        layer.load_state_dict(old.layers[number // times].state_dict())
        if number % times:
            torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
            torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return grown


if __name__ == "__main__":
    main()
