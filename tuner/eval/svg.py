"""Charts as inline SVG without a fixed width: `loss_chart([(1, 2.1), (2, 1.7)], [], [])`; colours come from the page's style sheet.

Horizontal places are shares of the width and vertical ones are pixels, so that text keeps its size on a phone; only the plot is stretched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

Points = Sequence[tuple[float, float]]

LEFT, WIDTH = 8.0, 84.0  # of the plot, in per cent; the axes' numbers stand beside it
TOP, HEIGHT, FOOT = 10, 220, 44  # in pixels
MOST_POINTS = 600
COLOURS = 6  # of runs in one plot; from then on the lines are dashed


def thin(points: Points, *, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` points: the mean of each of as many equal stretches. Values that are not finite are left out."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if len(finite) <= most:
        return finite
    size = len(finite) / most
    parts = [finite[int(i * size) : int((i + 1) * size)] for i in range(most)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Round values that cover the range, at steps of 1, 2 or 5 times a power of ten."""
    span = high - low or abs(high) or 1.0
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def loss_chart(train: Points, validation: Points, learning_rate: Points, *, title: str = "Loss over training steps") -> Markup:
    """Loss over steps, on held-out rows too where measured, the learning rate in the background with its own scale on the right."""
    train, validation, learning_rate = thin(train), thin(validation), thin(learning_rate)
    if not (train or validation):
        return Markup("")
    steps = [x for x, _ in [*train, *validation]]
    first, last = min(steps), max(steps)
    parts, across, down = _over_steps([*train, *validation])
    rates = ticks(0, max(y for _, y in learning_rate), about=3) if any(y > 0 for _, y in learning_rate) else []
    down_rate = _scale(0, rates[-1], 1000, 0) if rates else down
    parts += [_label(f"{LEFT + WIDTH + 1}%", TOP + down_rate(r) / 1000 * HEIGHT + 4, _rate(r), "start") for r in rates]
    lines = [_line([(across(x), down_rate(y)) for x, y in learning_rate if first <= x <= last], "rate")] if rates else []
    lines.append(_line([(across(x), down(y)) for x, y in train], "train faint" if _smooths(train) else "train"))
    if _smooths(train):
        lines.append(_line([(across(x), down(y)) for x, y in smooth(train)], "train"))
    lines.append(_line([(across(x), down(y)) for x, y in validation], "held-out"))
    lines += [_dot(across(x), down(y), "held-out") for x, y in validation[:40]]
    return _svg(title, [*parts, _plot(lines)])


def runs_chart(curves: Sequence[tuple[Points, Points]]) -> Markup:
    """(training loss, held-out loss) of several runs in one plot: a line of each, smoothed where long, and dots where it was measured."""
    curves = [(thin(train), thin(validation)) for train, validation in curves]
    shown = [point for both in curves for points in both for point in points]
    if not shown:
        return Markup("")
    parts, across, down = _over_steps(shown)
    lines = []
    for number, (train, validation) in enumerate(curves):
        colour = f"s{number % COLOURS}" + " again" * (number >= COLOURS)
        lines.append(_line([(across(x), down(y)) for x, y in (smooth(train) if _smooths(train) else train)], colour))
        lines += [_dot(across(x), down(y), colour) for x, y in validation[:40]]
    return _svg("Loss of each run over training steps", [*parts, _plot(lines)])


def rate_chart(curve: Sequence[tuple[float, float, float]], suggestion: float | None) -> Markup:
    """(learning rate, loss, smoothed loss) over the rate's power of ten, and where the suggested one lies."""
    curve = [(math.log10(r), a, b) for r, a, b in curve if r > 0 and math.isfinite(a) and math.isfinite(b)]
    if len(curve) < 2:
        return Markup("")
    low = min(b for _, _, b in curve)
    top = min(max(a for _, a, _ in curve), low + 3 * (curve[0][2] - low or 1.0))  # what has exploded is cut off
    levels = ticks(low, top)
    across, down = _scale(curve[0][0], curve[-1][0], 0, 1000), _scale(levels[0], levels[-1], 1000, 0)
    high = levels[-1]
    parts = [_grid(y, f"{level:g}", levels[0] == level) for level in levels for y in [TOP + down(level) / 1000 * HEIGHT]]
    powers = range(math.ceil(curve[0][0]), math.floor(curve[-1][0]) + 1)
    parts += [_label(f"{LEFT + across(p) / 1000 * WIDTH:.2f}%", TOP + HEIGHT + 20, f"1e{p}", "middle") for p in powers]
    parts.append(_label(f"{LEFT + WIDTH / 2}%", TOP + HEIGHT + 40, "learning rate", "middle"))
    lines = [_line([(across(x), down(min(a, high))) for x, a, _ in curve], "train faint")]
    lines.append(_line([(across(x), down(min(b, high))) for x, _, b in curve], "train"))
    if suggestion:
        place = across(math.log10(suggestion))
        lines.append(_line([(place, 0), (place, 1000)], "held-out"))
    return _svg("Loss over learning rates", [*parts, _plot(lines)])


def noise_chart(course: Points, rows: float | None) -> Markup:
    """(step, noise scale in rows) of the steps around each, and the estimate of all steps as a level line."""
    if len(course) < 2 or rows is None:
        return Markup("")
    levels = ticks(0, max(rows, *(y for _, y in course)))
    across, down = _scale(course[0][0], course[-1][0], 0, 1000), _scale(0, levels[-1], 1000, 0)
    parts = [_grid(TOP + down(level) / 1000 * HEIGHT, f"{level:g}", level == 0) for level in levels]
    marks = [m for m in ticks(course[0][0], course[-1][0], about=6) if course[0][0] <= m <= course[-1][0]]
    parts += [_label(f"{LEFT + across(m) / 1000 * WIDTH:.2f}%", TOP + HEIGHT + 20, f"{m:g}", "middle") for m in marks]
    parts.append(_label(f"{LEFT + WIDTH / 2}%", TOP + HEIGHT + 40, "step", "middle"))
    lines = [_line([(0, down(rows)), (1000, down(rows))], "held-out"), _line([(across(x), down(y)) for x, y in course], "train")]
    return _svg("Noise scale over steps", [*parts, _plot(lines)])


def _smooths(points: Points) -> bool:
    """A short curve is shown as it is; a long one gets a smoothed line over it."""
    return len(points) >= 100


def smooth(points: Points, *, reach: int = 10) -> list[tuple[float, float]]:
    """Each value as the mean of itself and up to `reach` neighbours on either side, the same number: no lag, as a running mean has."""
    result = []
    for index, (x, _) in enumerate(points):
        near = min(reach, index, len(points) - 1 - index)
        part = points[index - near : index + near + 1]
        result.append((x, sum(y for _, y in part) / len(part)))
    return result


def histogram(bars: Sequence[tuple[float, int]]) -> Markup:
    """Counts by upper bound: `[(64, 10), (128, 31)]`."""
    if not any(count for _, count in bars):
        return Markup("")
    height = 130
    levels = ticks(0, max(count for _, count in bars), about=3)
    down = _scale(0, levels[-1], 1000, 0)
    parts = [_grid(TOP + down(level) / 1000 * height, f"{level:g}", level == 0) for level in levels]
    every = math.ceil(len(bars) / 6)
    slot = WIDTH / len(bars)
    for index, (bound, count) in enumerate(bars):
        left, top = LEFT + index * slot, TOP + down(count) / 1000 * height
        size = f'x="{left + slot * 0.08:.2f}%" width="{slot * 0.84:.2f}%" y="{top:.1f}" height="{TOP + height - top:.1f}"'
        parts.append(f'<rect class="bar" {size} rx="2"><title>up to {bound:g} tokens: {count:,} rows</title></rect>')
        if (len(bars) - 1 - index) % every == 0:
            parts.append(_label(f"{left + slot:.2f}%", TOP + height + 20, f"{bound:g}", "end" if index == len(bars) - 1 else "middle"))
    parts.append(_label(f"{LEFT + WIDTH / 2}%", TOP + height + 40, "tokens a row, up to", "middle"))
    return _svg("Histogram of row lengths", parts, height=height)


def dumbbell(base: float, tuned: float) -> Markup:
    """Two rates on a line from 0 to 1: where the base stood, and where the tuned model stands."""
    a, b = (f"{4 + 92 * min(max(v, 0.0), 1.0):.1f}%" for v in (base, tuned))
    marks = f'<line class="track" x1="4%" x2="96%" y1="9" y2="9"/><line class="span" x1="{a}" x2="{b}" y1="9" y2="9"/>'
    dots = f'<circle class="base" cx="{a}" cy="9" r="4.5"/><circle class="tuned" cx="{b}" cy="9" r="5"/>'
    return Markup(f'<svg class="dumbbell" width="100%" height="18" aria-hidden="true">{marks}{dots}</svg>')


def _over_steps(points: Points) -> tuple[list[str], Callable[[float], float], Callable[[float], float]]:
    """The axes of values over steps, and where a step and a value lie, from 0 to 1000."""
    levels = ticks(min(y for _, y in points), max(y for _, y in points))
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    across, down = _scale(first, last, 0, 1000), _scale(levels[0], levels[-1], 1000, 0)
    marks = [t for t in ticks(first, last, about=6) if first <= t <= last] or [first]
    parts = [_grid(y, f"{level:g}", levels[0] == level) for level in levels for y in [TOP + down(level) / 1000 * HEIGHT]]
    parts += [_label(f"{LEFT + across(m) / 1000 * WIDTH:.2f}%", TOP + HEIGHT + 20, f"{m:g}", "middle") for m in marks]
    return [*parts, _label(f"{LEFT + WIDTH / 2}%", TOP + HEIGHT + 40, "step", "middle")], across, down


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = high - low or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _rate(value: float) -> str:
    """2e-3 rather than 0.002: learning rates are compared by their power of ten."""
    mantissa, _, power = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(power)}" if value else "0"


def _label(x: str, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _grid(y: float, text: str, is_axis: bool) -> str:
    line = f'<line class="{"axis" if is_axis else "grid"}" x1="{LEFT}%" x2="{LEFT + WIDTH}%" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + _label(f"{LEFT - 1}%", y + 4, text, "end")


def _line(points: Points, kind: str) -> str:
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>' if len(points) > 1 else ""


def _dot(x: float, y: float, kind: str) -> str:
    """A line of no length with round ends: it stays round where a circle would be stretched with the plot."""
    return f'<line class="{kind} dot" x1="{x:.1f}" x2="{x:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _plot(lines: Sequence[str]) -> str:
    place = f'x="{LEFT}%" y="{TOP}" width="{WIDTH}%" height="{HEIGHT}"'
    return f'<svg class="plot" {place} viewBox="0 0 1000 1000" preserveAspectRatio="none">{"".join(lines)}</svg>'


def _svg(title: str, parts: Sequence[str], *, height: int = HEIGHT) -> Markup:
    """The figure. Its parts are numbers and words of ours, so that nothing is left to escape."""
    return Markup(f'<svg class="chart" width="100%" height="{TOP + height + FOOT}" role="img" aria-label="{title}">{"".join(parts)}</svg>')
