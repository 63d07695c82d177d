"""What a plugin author imports. Importing it is quick: neither torch nor gradio comes along."""

from lmapps.decoding import Decoding
from lmapps.fields import Bounds, Message, Messages
from lmapps.loading import load
from lmapps.metrics import parses_as_python, rouge_l, word_f1
from lmapps.passage import Passage
from lmapps.plugin import plugin
from lmapps.replies import code_block, code_of, whole_sentences
from lmapps.reply import Code

__version__ = "0.1.0"

__all__ = [
    "Bounds",
    "Code",
    "Decoding",
    "Message",
    "Messages",
    "Passage",
    "code_block",
    "code_of",
    "load",
    "parses_as_python",
    "plugin",
    "rouge_l",
    "whole_sentences",
    "word_f1",
]
