"""A line chart as SVG: axes, a line a series, a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 420, 60, 40, 20, 50
COLOURS: Final = ("#0b6e4f", "#e07a1f", "#3d5a98", "#8a8a8a", "#b03a5b", "#6b4e9b")


def line_chart(series: Mapping[str, Sequence[float]], title: str, across: str, up: str, step: float) -> str:
    """Return the chart's SVG.

    Parameters
    ----------
    series
        Name to values; their places across are 1, 2, … times `step`.
    title, across, up
        Texts of chart and axes.
    step
        Distance of two values.

    Examples
    --------
    >>> line_chart({"a": [0.1, 0.2]}, "Rates", "minutes", "rate", 5)[:4]
    '<svg'
    """
    most = max((value for values in series.values() for value in values), default=0.0) * 1.1 or 1.0
    longest = max(map(len, series.values()), default=1)
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(number: int, value: float) -> str:
        return f"{LEFT + wide * (number + 1) / longest:.1f},{TOP + high * (1 - value / most):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="16">{escape(title)}</text>',
        f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 10}">{escape(across)}</text>',
        f'<text x="8" y="{TOP - 4}">{escape(up)}</text>',
    ]
    for tick in range(5):
        y = TOP + high * (1 - tick / 4)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="8" y="{y + 4:.1f}">{most * tick / 4:.3f}</text>')
    for number in range(0, longest, max(1, longest // 6)):
        x = LEFT + wide * (number + 1) / longest
        parts.append(f'<text x="{x - 8:.1f}" y="{HEIGHT - BOTTOM + 18}">{(number + 1) * step:g}</text>')
    for number, (name, values) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(place(at, value) for at, value in enumerate(values))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = TOP + 14 + 18 * number
        parts.append(f'<text x="{WIDTH - 190}" y="{y}" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])
