"""Programs that others wrote for OpenAI's API: Gradio's own loader, LangChain, LlamaIndex."""

from __future__ import annotations

from typing import Any, Literal

import gradio as gr
import pytest
from pydantic import BaseModel

from tests.conftest import brought


def test_gradios_load_chat_talks_with_the_model_and_remembers(served: Any) -> None:
    chat = gr.load_chat(f"{served.url}/v1", model="unnamed", token="none", streaming=True)
    said = list(chat.fn("Where is the cat?", []))
    assert len(said) > 3 and said[-1].startswith(said[0])
    history = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("user", "Where is the cat?"), ("assistant", said[-1][:20]))
    ]
    assert list(chat.fn("And the dog?", history))[-1]
    whole = gr.load_chat(f"{served.url}/v1", model="unnamed", token="none", streaming=False)
    assert whole.fn("Where is the cat?", [])


class Animal(BaseModel):
    name: Literal["cat", "dog"]
    is_home: bool


def test_langchain_asks_streams_counts_and_gets_its_own_form(served: Any) -> None:
    langchain_openai = brought("langchain_openai")
    options = {"base_url": f"{served.url}/v1", "api_key": "none", "model": "unnamed", "seed": 3}
    model = langchain_openai.ChatOpenAI(**options, temperature=0.8, max_tokens=30, max_retries=0)
    reply = model.invoke([("system", "Be brief."), ("human", "Where is the cat?")])
    assert reply.content and reply.usage_metadata["output_tokens"] == 30
    chunks = list(model.stream([("system", "Be brief."), ("human", "Where is the cat?")]))
    assert "".join(chunk.content for chunk in chunks) == reply.content and len(chunks) > 5
    two = model.batch(["One cat.", "Two cats."])
    assert len(two) == 2 and all(each.content for each in two)
    formed = langchain_openai.ChatOpenAI(**options).with_structured_output(
        Animal, method="json_schema"
    )
    assert isinstance(formed.invoke("A cat has four legs."), Animal)
    with pytest.raises(Exception, match="tools is not supported: leave it out"):
        model.bind_tools([Animal]).invoke("A cat.")


def test_llamaindex_chats_streams_and_completes(served: Any) -> None:
    """Where llama-index-llms-openai-like is installed, which the test extra leaves out."""
    openai_like = pytest.importorskip("llama_index.llms.openai_like")
    from llama_index.core.llms import ChatMessage

    options = {
        "api_base": f"{served.url}/v1", "api_key": "none", "model": "unnamed",
        "context_window": 128, "max_tokens": 20, "additional_kwargs": {"seed": 3},
    }  # fmt: skip
    model = openai_like.OpenAILike(**options, is_chat_model=True)
    asked = [
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content="Where is the cat?"),
    ]
    reply = model.chat(asked)
    assert reply.message.content and reply.raw.usage.completion_tokens == 20
    pieces = [piece.delta for piece in model.stream_chat(asked)]
    assert "".join(pieces) == reply.message.content and len(pieces) > 5
    plain = openai_like.OpenAILike(**options, is_chat_model=False)
    whole = plain.complete("The cat").text
    assert whole and list(plain.stream_complete("The cat"))[-1].text == whole
    with pytest.raises(Exception, match=r"the prompt has .* tokens, the model takes at most"):
        model.chat([ChatMessage(role="user", content="a cat " * 500)])
