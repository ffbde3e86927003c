"""A line chart as SVG: one line a series, a legend, an axis from zero or from the least value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 60, 200, 40, 40
COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#7b5ea7", "#b08900", "#444444", "#2a9d8f", "#9d4edd")
TICKS = 5


def line_chart(title: str, xs: Sequence[int], series: Mapping[str, Sequence[float]]) -> str:
    """Return the chart.

    Parameters
    ----------
    title
        Over the chart.
    xs
        Positions on the horizontal axis, rising.
    series
        Name to one value a position.

    Examples
    --------
    >>> line_chart("recall@20", [1, 2], {"ours": [0.5, 0.6]}).count("<polyline")
    1
    """
    values = [value for line in series.values() for value in line]
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.05 * (high - low) or 0.01
    low, high = max(low - margin, 0.0), high + margin
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    span = max(xs[-1] - xs[0], 1) if xs else 1

    def x_of(x: int) -> float:
        return LEFT + wide * (x - xs[0]) / span

    def y_of(value: float) -> float:
        return TOP + tall * (high - value) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
    ]
    for tick in range(TICKS + 1):
        value = low + (high - low) * tick / TICKS
        y = y_of(value)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{LEFT + wide}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3f}</text>')
    parts += [f'<text x="{x_of(x):.1f}" y="{HEIGHT - 18}" text-anchor="middle">{x}</text>' for x in xs]
    for at, (name, line) in enumerate(series.items()):
        colour = COLOURS[at % len(COLOURS)]
        points = " ".join(f"{x_of(x):.1f},{y_of(value):.1f}" for x, value in zip(xs, line, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = TOP + 18 * at + 10
        parts.append(
            f'<rect x="{WIDTH - RIGHT + 12}" y="{y - 9}" width="12" height="10" fill="{colour}"/>'
            f'<text x="{WIDTH - RIGHT + 30}" y="{y}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])
