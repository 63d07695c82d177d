"""A program that ends while the engine is in the middle of a step ends quietly."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import time
from lmapps.decoding import Decoding
from lmapps.engine.engine import Engine
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.config import ModelConfig
from lmapps.model.language_model import LanguageModel
from lmapps.text.template import Template
from lmapps.text.tokenizer import Tokenizer

tokenizer = Tokenizer.train(["a text"], "bpe", 300)
tokenizer.end_ids = frozenset()
config = ModelConfig.from_size("small", vocab_size=300, context=512)
engine = Engine(Checkpoint(LanguageModel(config), tokenizer, Template(tokenizer)))
for _ in range(8):
    engine.submit([5, 6, 7], Decoding(max_new_tokens=500), lambda delta: None)
while engine.passes < 20:
    time.sleep(0.01)
assert "transformers.modeling_utils" not in sys.modules, "no model of theirs is served"
"""


def test_the_interpreter_may_end_while_replies_are_written() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
