"""The scored tokens of a reply -> HTML: how probable each was, and what else might have come.

A token's probability is told by its colour, by the line under it, and in words: by the colour alone
nobody has to tell it. One token is chosen at a time, by pointer, finger or arrow keys.
"""

from __future__ import annotations

import html
import json
from typing import Any

import gradio as gr

from lmapps.engine.scoring import Score, ScoredToken
from lmapps.server.page.languages import word

BANDS = ((0.5, "likely"), (0.1, "less"), (0.01, "unlikely"), (0.0, "surprising"))
"""The least probability of each, and its class."""

CSS = """
.strip { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 2; max-height: 22rem;
  overflow-y: auto; padding: 0.25rem; }
.strip button { display: inline; white-space: pre-wrap; font: inherit; color: inherit; margin: 0;
  padding: 0.1rem 0; border: 0; border-bottom: 3px solid transparent; background: none;
  border-radius: 2px; cursor: pointer; text-align: left; }
.less { border-bottom: 3px dotted #b45309 !important; background: rgba(245, 158, 11, 0.14)
  !important; }
.unlikely { border-bottom: 3px dashed #b45309 !important; background: rgba(245, 158, 11, 0.32)
  !important; }
.surprising { border-bottom: 4px double #b45309 !important; background: rgba(245, 158, 11, 0.55)
  !important; }
.strip button.chosen, .strip button:focus-visible { outline: 2px solid currentColor;
  outline-offset: 1px; }
.legend { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; font-size: 0.85rem; padding: 0.25rem; }
.legend span { padding: 0 0.25rem; border-bottom: 3px solid transparent; }
.detail { min-height: 11rem; padding: 0.5rem 0.25rem; font-variant-numeric: tabular-nums; }
.detail p { margin: 0 0 0.4rem; }
.detail .row { display: grid; grid-template-columns: minmax(5rem, 10rem) 4rem 1fr; gap: 0.5rem;
  align-items: center; padding: 0.1rem 0; }
.detail code { white-space: pre; overflow: hidden; text-overflow: ellipsis; }
.detail .bar { height: 0.6rem; border-radius: 2px; background: currentColor; opacity: 0.45; }
.detail .taken { font-weight: 700; }
"""

# Text from the model gets into the page by textContent only.
SCRIPT = """
const show = (token) => {
    const box = element.querySelector('.detail');
    if (!token || !box) return;
    for (const other of element.querySelectorAll('.strip button')) {
        other.classList.toggle('chosen', other === token);
        other.tabIndex = other === token ? 0 : -1;
    }
    const told = JSON.parse(token.dataset.told);
    const make = (kind, name, text) => {
        const made = document.createElement(kind);
        made.className = name;
        made.textContent = text;
        return made;
    };
    const rows = told.top.map(([text, probability, shown]) => {
        const row = make('div', text === told.text ? 'row taken' : 'row', '');
        const bar = make('div', 'bar', '');
        bar.style.width = `${Math.max(probability * 100, 0.5)}%`;
        row.append(make('code', '', text), make('span', '', shown), bar);
        return row;
    });
    box.replaceChildren(make('p', '', told.about), ...rows);
};
element.addEventListener('mouseover', (event) => {
    if (!element.querySelector('.strip button:focus'))
        show(event.target.closest('.strip button'));
});
element.addEventListener('click', (event) => event.target.closest('.strip button')?.focus());
element.addEventListener('focusin', (event) => show(event.target.closest('.strip button')));
element.addEventListener('keydown', (event) => {
    const tokens = [...element.querySelectorAll('.strip button')];
    const place = tokens.indexOf(event.target);
    const steps = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: tokens.length - 1 };
    const next = place < 0 ? undefined : tokens[steps[event.key]];
    if (!next) return;
    event.preventDefault();
    next.focus();
});
"""


def tokens_view() -> gr.HTML:
    """The component; `tokens_html` is a value of it."""
    return gr.HTML(css_template=CSS, js_on_load=SCRIPT, elem_classes="tokens")


def tokens_html(score: Score) -> str:
    """Every token of a reply, what the colours mean, and room for what is told of one."""
    label = html.escape(str(word("Tokens of the reply")))
    strip = "".join(_token(token, first=not place) for place, token in enumerate(score.tokens))
    names = (
        word("50% and more"), word("10 to 50%"), word("1 to 10%"), word("less than 1%"),
    )  # fmt: skip
    legend = "".join(
        f'<span class="{band}">{html.escape(str(name))}</span>'
        for (_, band), name in zip(BANDS, names, strict=True)
    )
    hint = word("Choose a token to see what else the model might have written.")
    return (
        f'<div class="legend">{legend}</div>'
        f'<div class="strip" role="group" aria-label="{label}">{strip}</div>'
        f'<div class="detail" aria-live="polite"><p>{html.escape(str(hint))}</p></div>'
    )


def percent(probability: float) -> str:
    """A probability as a person reads it: 37%, 2.4%, <0.01%."""
    share = probability * 100
    if share < 0.01:
        return "<0.01%"
    return f"{share:.0f}%" if share >= 10 else f"{share:.1f}%" if share >= 1 else f"{share:.2f}%"


def _token(token: ScoredToken, first: bool) -> str:
    band = next(name for least, name in BANDS if token.probability >= least)
    shown = _shown(token)
    about = word(
        "{token} had a probability of {share}.", token=shown, share=percent(token.probability)
    )
    told: dict[str, Any] = {
        "text": _visible(token.text), "about": str(about),
        "top": [[_visible(text), round(p, 5), percent(p)] for text, p in token.top],
    }  # fmt: skip
    written = html.escape(token.text.replace("\n", "⏎") if token.text.strip() else shown)
    return (
        f'<button type="button" class="{band}" tabindex="{0 if first else -1}" '
        f'aria-label="{html.escape(str(about))}" '
        f'data-told="{html.escape(json.dumps(told))}">{written}</button>'
        + "<br>"
        * token.text.count("\n")
    )


def _shown(token: ScoredToken) -> str:
    """A token as a word: the end of a reply writes nothing."""
    return str(word("(end)")) if token.control else _visible(token.text) or "·"


def _visible(text: str) -> str:
    """Spaces and line ends as marks that can be seen."""
    return text.replace("\n", "⏎").replace(" ", "␣" if not text.strip() else " ")
