"""Named series of points -> a line chart as SVG, coloured by the page that holds it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]
Place = Callable[[float, float], tuple[float, float]]

WIDTH, HEIGHT = 480, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 12, 34
BAR_NAMES = 190
SMALLEST = 1e-300
"""No step of an axis is finer: numbers end there."""
MOST_POINTS = 400
"""More points than this are thinned: a long run's page stays small."""


def line_chart(title: str, across: str, series: Mapping[str, Points]) -> str:
    """One line a series, with axes, and a legend where there are several. '' without points."""
    drawn = {name: _finite(points) for name, points in series.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return ""
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    low_x, high_x = min(x_ticks[0], min(xs)), max(x_ticks[-1], max(xs))
    low_y, high_y = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        inner_x = (x - low_x) / ((high_x - low_x) or 1)
        inner_y = (y - low_y) / ((high_y - low_y) or 1)
        return LEFT + inner_x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - inner_y * (
            HEIGHT - TOP - BOTTOM
        )

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in y_ticks:
        _, y = place(low_x, tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>'
        )
    for tick in x_ticks:
        x, _ = place(tick, low_y)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - 18}" text-anchor="middle">{number(tick)}</text>'
        )
    parts.append(
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{escape(across)}</text>'
    )
    for index, (name, points) in enumerate(drawn.items()):
        parts += _line(index, name, points, place)
    if len(drawn) > 1:
        parts += _legend(list(drawn))
    return "".join([*parts, "</svg>"])


def bar_chart(title: str, values: Mapping[str, float]) -> str:
    """One bar a name, from zero, with its number. '' without values."""
    drawn = {name: value for name, value in values.items() if math.isfinite(value)}
    if not drawn:
        return ""
    longest = max(max(drawn.values()), 0.0) or 1.0
    height, room = 24 * len(drawn) + TOP, WIDTH - BAR_NAMES - 70
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">']
    for index, (name, value) in enumerate(drawn.items()):
        y, width = TOP + 24 * index, max(0.0, value) / longest * room
        parts += [
            f'<text x="{BAR_NAMES - 8}" y="{y + 12}" text-anchor="end">{escape(name[-34:])}</text>',
            f'<rect class="s{index % 6}" x="{BAR_NAMES}" y="{y}" width="{width:.1f}" height="16">'
            f"<title>{escape(name)}: {value:.5g}</title></rect>",
            f'<text x="{BAR_NAMES + width + 6:.1f}" y="{y + 12}">{value:.4g}</text>',
        ]
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that span [low, high]: steps of 1, 2 or 5 times a power of ten."""
    if high - low < SMALLEST:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def number(value: float) -> str:
    """As short as an axis needs it: 1.2M, 30k, 0.5, 3e-05."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.4g}{name}"
    return f"{value:.4g}"


def _finite(points: Points) -> list[tuple[float, float]]:
    """Points that can be drawn, thinned to a few hundred; the last one stays."""
    kept = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    every = -(-len(kept) // MOST_POINTS)
    return kept if every <= 1 else [*kept[:-1:every], kept[-1]]


def _line(index: int, name: str, points: Points, place: Place) -> Iterator[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    yield f'<polyline class="line s{index % 6}" points="{path}"/>'
    if len(points) <= 60:
        for x, y in points:
            cx, cy = place(x, y)
            yield (
                f'<circle class="s{index % 6}" cx="{cx:.1f}" cy="{cy:.1f}" r="2.5">'
                f"<title>{escape(name)}: {y:.5g} at {number(x)}</title></circle>"
            )


def _legend(names: Sequence[str]) -> Iterator[str]:
    for index, name in enumerate(names):
        y = TOP + 14 + 16 * index
        x = WIDTH - RIGHT - 8
        yield f'<text class="s{index % 6}" x="{x}" y="{y}" text-anchor="end">{escape(name)}</text>'
