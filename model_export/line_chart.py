"""A line chart as SVG: one line a series, a legend, an axis from zero or from the least value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 60, 200, 40, 40
COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#7b5ea7", "#b08900", "#444444", "#2a9d8f", "#9d4edd")
TICKS = 5
MOST_LABELS = 16


def line_chart(
    title: str,
    xs: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    across: str = "",
    from_zero: bool = False,
) -> str:
    """Return the chart.

    Parameters
    ----------
    title
        Over the chart.
    xs
        Positions on the horizontal axis, rising.
    series
        Name to one value a position; a series may end before the others.
    across
        Under the horizontal axis.
    from_zero
        Let the other axis begin there, where shares are compared.

    Examples
    --------
    >>> line_chart("recall@20", [1, 2], {"ours": [0.5, 0.6]}).count("<polyline")
    1
    """
    values = [value for line in series.values() for value in line]
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.05 * (high - low) or 0.01
    low, high = 0.0 if from_zero else max(low - margin, 0.0), high + margin
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    span = (xs[-1] - xs[0] if xs else 0) or 1
    labelled = xs[:: len(xs) // MOST_LABELS + 1]

    def x_of(x: float) -> float:
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
    parts += [
        f'<text x="{x_of(x):.1f}" y="{HEIGHT - 22}" text-anchor="middle">{x:g}</text>' for x in labelled
    ]
    parts.append(f'<text x="{LEFT + wide / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(across)}</text>')
    for at, (name, line) in enumerate(series.items()):
        colour = COLOURS[at % len(COLOURS)]
        points = " ".join(f"{x_of(x):.1f},{y_of(value):.1f}" for x, value in zip(xs, line, strict=False))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = TOP + 18 * at + 10
        parts.append(
            f'<rect x="{WIDTH - RIGHT + 12}" y="{y - 9}" width="12" height="10" fill="{colour}"/>'
            f'<text x="{WIDTH - RIGHT + 30}" y="{y}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])
