"""Charts as SVG, made on the server: classes only, no style, all words are HTML around the plot.

A plot stretches (`preserveAspectRatio="none"`), its strokes do not. Bars begin at zero, with failures on the zero line;
a bucket without data is a gap in a line. Each bucket has one `<title>` over its full height.
"""

import math
from collections.abc import Sequence
from typing import Final

import msgspec
from markupsafe import Markup

BUCKET: Final = 10
"""The width of a bucket in the plot's units."""
HEIGHT: Final = 100
LABELS_MAX: Final = 5
_TOPS: Final = (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10)


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """The values of one kind, one for each bucket: None is a gap. `style` is a class of the style sheet."""

    name: str
    style: str
    values: Sequence[float | None]

    @property
    def total(self) -> float:
        """Return the sum."""
        return sum(value or 0 for value in self.values)


class Plot(msgspec.Struct, frozen=True, kw_only=True):
    """A chart: its SVG, the labels of both axes from top and from left, and what a table of it holds."""

    svg: Markup
    y: Sequence[str]
    x: Sequence[str]
    series: Sequence[Series]
    names: Sequence[str]
    """The name of each bucket, such as `04:00`."""

    @property
    def empty(self) -> bool:
        """Return whether there is nothing to draw."""
        return not any(value for one in self.series for value in one.values)


class Axis(msgspec.Struct, frozen=True, kw_only=True):
    """The vertical axis: linear from zero to `top`, or logarithmic from `low` on."""

    top: float
    low: float | None = None

    def at(self, value: float) -> float:
        """Return the height of a value in the plot, from above."""
        if self.low is None:
            return HEIGHT - HEIGHT * min(value, self.top) / self.top
        span = math.log10(self.top / self.low)
        share = math.log10(max(value, self.low) / self.low) / span
        return HEIGHT - HEIGHT * min(share, 1)


def bars(names: Sequence[str], series: Sequence[Series], label: str) -> Plot:
    """Return stacked bars; the first series stands on the zero line."""
    sums = [sum(one.values[index] or 0 for one in series) for index in range(len(names))]
    top = round_top(max(sums, default=0))
    axis, pieces = Axis(top=top), [_grid(len(names), (0, HEIGHT / 2))]
    for index, name in enumerate(names):
        values = [(one, one.values[index] or 0) for one in series]
        title = f"{name}: " + ", ".join(f"{_number(value)} {one.name}" for one, value in values)
        rects, base = [], 0.0
        for one, value in values:
            if value:
                upper, lower = axis.at(base + value), axis.at(base)
                base += value
                rects.append(_rect(one.style, index * BUCKET + 1, upper, BUCKET - 2, lower - upper))
        pieces.append(_bucket(index, title, rects))
    return Plot(
        svg=_svg(len(names), label, [*pieces, _zero(len(names))]),
        y=[_number(top), _number(top / 2), "0"],
        x=sparse(names),
        series=series,
        names=names,
    )


def lines(names: Sequence[str], series: Sequence[Series], label: str, *, logarithmic: bool = False) -> Plot:
    """Return lines with gaps; a logarithmic axis has whole decades, and its labels are durations in ms."""
    values = [value for one in series for value in one.values if value is not None]
    if logarithmic:
        low, high = _decades(values)
        axis = Axis(top=high, low=low)
        ticks = [high / 10**step for step in range(round(math.log10(high / low)) + 1)]
        labels = [_duration(tick) for tick in ticks]
    else:
        axis = Axis(top=round_top(max(values, default=0)))
        ticks, labels = [axis.top, 0], [_number(axis.top), "0"]
    pieces = [_grid(len(names), [axis.at(tick) for tick in ticks if axis.at(tick) < HEIGHT])]
    for one in series:
        path = _path(axis, one.values)
        if not logarithmic and one is series[0] and path:
            pieces.append(_area(axis, one.values))
        pieces.append(Markup('<path class="l {}" d="{}"/>').format(one.style, path))
    pieces.append(_zero(len(names)))
    for index, name in enumerate(names):
        known = [(one.name, one.values[index]) for one in series]
        write = _duration if logarithmic else _number
        said = ", ".join(f"{kind} {write(value)}" for kind, value in known if value is not None)
        pieces.append(_bucket(index, f"{name}: {said or 'nothing'}", []))
    return Plot(svg=_svg(len(names), label, pieces), y=labels, x=sparse(names), series=series, names=names)


def share(parts: Sequence[tuple[str, float]], whole: float | None = None) -> Markup:
    """Return a bar of the parts of a whole, each with its class; it is decoration: the numbers stand beside it."""
    total = whole if whole is not None else sum(value for _, value in parts)
    pieces, begin = [Markup('<rect class="f-bg" x="0" y="0" width="100%" height="10"/>')], 0.0
    for style, value in parts:
        width = 0.0 if total <= 0 else min(100 * value / total, 100 - begin)
        pieces.append(
            Markup('<rect class="{}" x="{:.1f}%" y="0" width="{:.1f}%" height="10"/>').format(style, begin, width)
        )
        begin += width
    return Markup('<svg class="bar" aria-hidden="true">{}</svg>').format(Markup().join(pieces))


def spark(good: Sequence[float], bad: Sequence[float], label: str) -> Markup:
    """Return small bars, failures on the zero line."""
    top = max((a + b for a, b in zip(good, bad, strict=True)), default=0) or 1
    pieces = []
    for index, (fine, failed) in enumerate(zip(good, bad, strict=True)):
        height, low = 20 * fine / top, 20 * failed / top
        pieces += [_rect("f-bad", index * 4, 20 - low, 3, low)] if failed else []
        pieces += [_rect("f-ok", index * 4, 20 - low - height, 3, height)] if fine else []
    return Markup(
        '<svg class="spark" viewBox="0 0 {} 20" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(max(1, len(good)) * 4, label, Markup().join(pieces))


def legend(one: Series) -> Markup:
    """Return the sample of a series for the key of its chart: a block for bars, a stroke for lines."""
    if one.style.startswith("f-"):
        return block(one.style)
    return Markup('<svg viewBox="0 0 12 10" aria-hidden="true"><path class="l {}" d="M0 5h12"/></svg>').format(
        one.style
    )


def block(style: str) -> Markup:
    """Return the sample of a bar's colour."""
    return _sample(Markup('<rect class="{}" x="0" y="0" width="12" height="10"/>').format(style))


def round_top(value: float) -> float:
    """Return the smallest round number that is not below the value, whose half is round too; 2 at least."""
    if value <= 2:
        return 2
    power = 10.0 ** math.floor(math.log10(value))
    for step in _TOPS:
        top = step * power
        if top >= value and top % 2 == 0:
            return top
    return 20 * power


def sparse(names: Sequence[str]) -> list[str]:
    """Return at most five of the buckets' names, the first and the last among them, at equal distances."""
    if len(names) <= LABELS_MAX:
        return list(names)
    step = (len(names) - 1) / (LABELS_MAX - 1)
    return [names[round(index * step)] for index in range(LABELS_MAX)]


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """Return the powers of ten around the values, at least two decades apart; 10 ms to 1 s without any."""
    positive = [value for value in values if value > 0]
    if not positive:
        return 10, 1000
    low = 10.0 ** math.floor(math.log10(min(positive)))
    high = 10.0 ** math.ceil(math.log10(max(positive)))
    return (low, high) if high >= low * 100 else (low, low * 100)


def _path(axis: Axis, values: Sequence[float | None]) -> str:
    """Return the path of a line; it begins anew after each gap, and a lone value is a short line."""
    steps, drawing = [], False
    for index, value in enumerate(values):
        if value is None:
            drawing = False
            continue
        x, y = index * BUCKET + BUCKET / 2, axis.at(value)
        alone = not drawing and (index + 1 == len(values) or values[index + 1] is None)
        steps.append(f"M{x - 3:g} {y:.1f}h6" if alone else f"{'L' if drawing else 'M'}{x:g} {y:.1f}")
        drawing = True
    return "".join(steps)


def _area(axis: Axis, values: Sequence[float | None]) -> Markup:
    """Return the area under a line; gaps count as zero."""
    points = [f"L{index * BUCKET + BUCKET / 2:g} {axis.at(value or 0):.1f}" for index, value in enumerate(values)]
    end = (len(values) - 1) * BUCKET + BUCKET / 2
    return Markup('<path class="area" d="M5 {}{}L{:g} {}Z"/>').format(HEIGHT, "".join(points), end, HEIGHT)


def _sample(shape: Markup) -> Markup:
    """Return a small picture for the key of a chart."""
    return Markup('<svg viewBox="0 0 12 10" aria-hidden="true">{}</svg>').format(shape)


def _svg(buckets: int, label: str, pieces: Sequence[Markup]) -> Markup:
    """Return the picture."""
    return Markup('<svg viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>').format(
        max(1, buckets) * BUCKET, HEIGHT, label, Markup().join(pieces)
    )


def _bucket(index: int, title: str, rects: Sequence[Markup]) -> Markup:
    """Return a bucket with its title, over its full height."""
    hit = _rect("f-hit", index * BUCKET, 0, BUCKET, HEIGHT)
    return Markup('<g class="hit"><title>{}</title>{}</g>').format(title, Markup().join([hit, *rects]))


def _rect(style: str, x: float, y: float, width: float, height: float) -> Markup:
    """Return a rectangle."""
    return Markup('<rect class="{}" x="{:g}" y="{:.1f}" width="{:g}" height="{:.1f}"/>').format(
        style, x, y, width, height
    )


def _grid(buckets: int, heights: Sequence[float]) -> Markup:
    """Return horizontal lines."""
    line = Markup('<line class="g" x1="0" x2="{}" y1="{:g}" y2="{:g}"/>')
    return Markup().join(line.format(buckets * BUCKET, at, at) for at in heights)


def _zero(buckets: int) -> Markup:
    """Return the zero line."""
    return Markup('<line class="zero" x1="0" x2="{}" y1="{}" y2="{}"/>').format(buckets * BUCKET, HEIGHT, HEIGHT)


def _number(value: float) -> str:
    """Return a number with commas, without needless decimals."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.2f}".rstrip("0").rstrip(".")


def _duration(ms: float) -> str:
    """Return a duration for an axis or a title: `25 ms`, `1.5 s`, `10 min`."""
    if ms < 1000:
        return f"{ms:.0f} ms"
    if ms < 100_000:
        return f"{ms / 1000:.3g} s"
    return f"{ms / 60_000:.0f} min"
