"""Messages -> token ids and a loss mask: the only place with role markers.

The same rendering serves training and live requests, so that what the model is asked is what it
saw. The markers come from `chat_template.jinja`, which is saved with the checkpoint; what a
person, a file or a plugin wrote between them is encoded as plain text and can never become a
control id.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as RawTokenizer

from lmapps.errors import CheckpointError, InputError
from lmapps.text.rendering import Rendering
from lmapps.text.storage import write_whole
from lmapps.text.tokenizer import END, END_OF_TEXT, Tokenizer

if TYPE_CHECKING:
    from lmapps.fields import Message

FILE = "chat_template.jinja"
ROLES = ("system", "user", "assistant")

DEFAULT = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# Each content is rendered as a placeholder of private-use characters, and put back as ids.
_PLACEHOLDER = re.compile("\ue000(\\d+)\ue001")


class Template:
    """A chat template and the tokenizer that encodes what it renders."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        source: str = DEFAULT,
        *,
        bos_token: str = END_OF_TEXT,
        eos_token: str = END,
    ) -> None:
        self.tokenizer = tokenizer
        self.source = source
        self._has_marks = re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None
        self.tokens: dict[str, Any] = {"bos_token": bos_token, "eos_token": eos_token}
        """What the template calls them, as text; "" where there is none."""
        self._foreign = Rendering(source) if source != DEFAULT else None
        # A copy of its own, that does see control tokens: no shared flag is switched to and fro.
        self._marker_tokenizer = RawTokenizer.from_str(tokenizer.raw.to_str())
        self._marker_tokenizer.encode_special_tokens = False

    @property
    def hash(self) -> str:
        """SHA-256 of the template, so that a checkpoint can say what it was trained with."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to and with the marker that opens the assistant's reply."""
        return self.prompt(messages)[0]

    def prompt(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """`prompt_ids`, and True where a token belongs to an earlier reply."""
        return self._ids(messages, add_generation_prompt=True)

    def training_ids(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Ids of a whole conversation, and True where a token is a reply (or ends one)."""
        return self._ids(messages, add_generation_prompt=False)

    def save(self, folder: Path) -> None:
        """Write the template beside the weights."""
        write_whole(folder / FILE, self.source.encode())

    def _ids(
        self, messages: Sequence[Message], *, add_generation_prompt: bool
    ) -> tuple[list[int], list[bool]]:
        text, reply_spans = self._render(messages, add_generation_prompt)
        ids: list[int] = []
        mask: list[bool] = []
        replied = False
        for start, piece, content in self._segments(text):
            if content is None:
                new = self._encode_markers(piece)
            else:
                new = self.tokenizer.encode(str(messages[content]["content"]))
            ids += new
            if self._has_marks:
                mask += [any(low <= start < high for low, high in reply_spans)] * len(new)
                continue
            # A template without generation marks: a reply is its content and what ends it.
            ends = replied and content is None and new[:1] and new[0] in self.tokenizer.end_ids
            replied = content is not None and messages[content]["role"] == "assistant"
            mask += [replied or (bool(ends) and place == 0) for place in range(len(new))]
        return ids, mask

    def _render(
        self, messages: Sequence[Message], add_generation_prompt: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        """The template's text with a placeholder for each content, and the spans of replies."""
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        check_messages(messages)
        marked = [
            {"role": message["role"], "content": f"\ue000{number}\ue001"}
            for number, message in enumerate(messages)
        ]
        if self._foreign:
            return self._foreign.render(
                messages=marked, add_generation_prompt=add_generation_prompt, **self.tokens
            )
        try:
            rendered: Any = render_jinja_template(
                conversations=[marked],
                chat_template=self.source,
                return_assistant_tokens_mask=self._has_marks,
                add_generation_prompt=add_generation_prompt,
                **self.tokens,
            )
        except TemplateError as error:
            raise CheckpointError(f"the checkpoint's {FILE} does not render: {error}") from None
        texts, spans = rendered
        return texts[0], list(spans[0]) if self._has_marks and spans else []

    def _segments(self, text: str) -> Iterator[tuple[int, str, int | None]]:
        """Runs of markers, and contents by their number: (start, text, number or None)."""
        position = 0
        for match in _PLACEHOLDER.finditer(text):
            yield from self._marker_runs(text, position, match.start())
            yield match.start(), match.group(), int(match.group(1))
            position = match.end()
        yield from self._marker_runs(text, position, len(text))

    def _marker_runs(self, text: str, low: int, high: int) -> Iterator[tuple[int, str, None]]:
        """The text between two contents, cut before each control token: one end-of-turn token
        belongs to the reply before it, the next role marker does not."""
        start = low
        for match in re.finditer(r"<\|[^|<>]*\|>", text[low:high]):
            cut = low + match.start()
            if cut > start:
                yield start, text[start:cut], None
            start = cut
        if high > start:
            yield start, text[start:high], None

    def _encode_markers(self, text: str) -> list[int]:
        return list(self._marker_tokenizer.encode(text, add_special_tokens=False).ids)


def check_messages(messages: Sequence[Message]) -> None:
    """Raises `InputError` for none, for a role that is not known, and for other than text."""
    if not messages:
        raise InputError("a conversation needs at least one message, got none")
    for number, message in enumerate(messages, start=1):
        if message.get("role") not in ROLES:
            known = ", ".join(ROLES)
            raise InputError(
                f"message {number}: role must be one of {known}, got {message.get('role')!r}"
            )
        if not isinstance(message.get("content"), str):
            raise InputError(
                f"message {number}: content must be text, got {message.get('content')!r}"
            )
