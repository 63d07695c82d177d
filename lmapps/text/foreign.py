"""Somebody else's chat template, a line of JSON at a time -> what it renders: a process of its own.

Started by `rendering.py` as `python -P foreign.py MEMORY`. A template is a program: Jinja's sandbox
keeps it from Python's insides, and this process keeps it from everything else, a loop without end
or a text without end included. It imports nothing of lmapps. What a template is given here is
what transformers gives it; `tests/text/test_agreement.py` compares the two.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from functools import cache
from typing import Any

from jinja2 import Template, TemplateError, nodes, pass_eval_context
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

BEGIN, END = "\ue002", "\ue003"
"""Around what stands between `{% generation %}` and its end."""
MAX_RENDERED = 4_000_000
"""Characters of a rendered conversation, whose contents are placeholders."""


class Generation(Extension):
    """`{% generation %}` marks the assistant's words, so that the loss is taken on them alone."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_marked")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    @pass_eval_context
    def _marked(self, _: Any, caller: Any) -> str:
        return f"{BEGIN}{caller()}{END}"


def main() -> int:
    _limit(int(sys.argv[1]))
    for line in sys.stdin:
        answer = json.dumps(_answer(json.loads(line)))
        print(answer, flush=True)
    return 0


def _limit(memory: int) -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):  # Windows; macOS refuses the first
        return


def _answer(asked: dict[str, Any]) -> dict[str, str]:
    try:
        text = _compiled(asked["template"]).render(**asked["values"])
    except MemoryError:
        return {"error": "it takes too much memory"}
    except (TemplateError, Exception) as error:  # a template raises whatever it comes to
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    return {"text": text} if len(text) <= MAX_RENDERED else {"error": "its text is too long"}


@cache
def _compiled(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _as_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)


def _as_json(value: Any, **options: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _raise(message: str) -> None:
    raise TemplateError(message)


if __name__ == "__main__":
    sys.exit(main())
