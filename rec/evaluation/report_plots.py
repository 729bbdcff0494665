"""Plots and tables of a report beside the models' own: slices by target, lambda, calibration.

Each returns HTML with the drawing inside, described in words for who cannot see it.
"""

from collections.abc import Mapping, Sequence
from html import escape

from rec.evaluation.calibration import Reliability
from rec.evaluation.slicing import Slice
from rec.evaluation.sweeping import Sweep

_WIDTH, _HEIGHT = 720, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 34, 30, 44
_LETTER_WIDTH = 8
_LABEL_WIDTH, _LABEL_HEIGHT = 52, 14
"""Room of a short label: one that would stand on another is left out of the drawing."""


def draw_points(
    points: Sequence[tuple[float, float]],
    *,
    labels: Sequence[str],
    marked: Sequence[bool],
    axes: tuple[str, str],
    caption: str,
    name: str,
    ticks: Sequence[str] | None = None,
    is_line: bool = True,
    diagonal: bool = False,
) -> str:
    """Return a plot of points as a figure.

    Args:
        points: x and y of each.
        labels: written beside each; one that is empty, or would cover another, is left out.
        marked: which stand out.
        axes: what x and y are.
        caption: what the plot shows.
        name: of the figure, for its description; unique on the page.
        ticks: written under each point, where x is only a place in a row; else x has a scale.
        is_line: join the points in order.
        diagonal: draw where x equals y, both axes alike.
    """
    xs, ys = [x for x, _ in points], [y for _, y in points]
    if diagonal:
        xs = ys = [*xs, *ys, 0.0]
    across, up = _scale(xs, _LEFT, _WIDTH - _RIGHT), _scale(ys, _HEIGHT - _BOTTOM, _TOP)

    def at(x: float, y: float) -> tuple[float, float]:
        return across[0] + across[1] * x, up[0] + up[1] * y

    parts = [
        f'<line class="axis" x1="{_LEFT}" y1="{_HEIGHT - _BOTTOM}" x2="{_WIDTH - _RIGHT}" '
        f'y2="{_HEIGHT - _BOTTOM}"/>',
        f'<line class="axis" x1="{_LEFT}" y1="{_TOP}" x2="{_LEFT}" y2="{_HEIGHT - _BOTTOM}"/>',
    ]
    if ticks is None:
        parts += [_tick(at(x, 0)[0], f"{x:.3g}") for x in _marks(xs)]
    parts += [
        f'<text x="{_LEFT - 8}" y="{at(0, y)[1] + 4:.1f}" text-anchor="end">{y:.3g}</text>'
        for y in _marks(ys)
    ]
    parts += [_tick(at(x, 0)[0], tick) for (x, _), tick in zip(points, ticks or (), strict=False)]
    if diagonal:
        low, high = at(min(xs), min(xs)), at(max(xs), max(xs))
        parts.append(
            f'<line class="guide" x1="{low[0]:.1f}" y1="{low[1]:.1f}" x2="{high[0]:.1f}" '
            f'y2="{high[1]:.1f}"/>'
        )
    if is_line and len(points) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
        parts.append(f'<polyline class="path" points="{path}"/>')
    written: list[tuple[float, float]] = []  # left and upper edge of each label
    # The marked points come first: they keep their labels.
    for place in sorted(range(len(points)), key=lambda place: not marked[place]):
        x, y = at(*points[place])
        label, kind = labels[place], "dot ours" if marked[place] else "dot"
        parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
        anchor = "end" if x > _WIDTH * 0.8 else "start"
        shift = -9 if anchor == "end" else 9
        left = x + shift - (_LABEL_WIDTH if anchor == "end" else 0)
        is_free = all(
            abs(left - other) > _LABEL_WIDTH or abs(y - upper) > _LABEL_HEIGHT
            for other, upper in written
        )
        if label and is_free:
            written.append((left, y))
            parts.append(
                f'<text x="{x + shift:.1f}" y="{y - 7:.1f}" text-anchor="{anchor}">'
                f"{escape(label)}</text>"
            )
    middle = (_LEFT + _WIDTH - _RIGHT) // 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(axes[0])}</text>'
    )
    spoken = "; ".join(
        f"{label} {x:.4g}, {y:.4g}" for label, (x, y) in zip(ticks or labels, points, strict=True)
    )
    return (
        f'<figure>\n<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-labelledby="{name}-title" aria-describedby="{name}-values">\n'
        f'<title id="{name}-title">{escape(caption)}</title>\n'
        f'<desc id="{name}-values">{escape(spoken)}</desc>\n'
        + "\n".join(parts)
        + f"\n</svg>\n<figcaption>{escape(axes[1])} · {escape(caption)}</figcaption>\n</figure>"
    )


def draw_sweep(sweep: Sweep, words: Mapping[str, str]) -> str:
    """Return the Pareto front: coverage against NDCG, a dot for each lambda."""
    return draw_points(
        [(point.coverage, point.ndcg) for point in sweep.points],
        labels=[f"λ={point.weight:g}" for point in sweep.points],
        marked=[point.weight == sweep.recommended for point in sweep.points],
        axes=(words["coverage"], words["ndcg"]),
        caption=words["front"],
        name="front",
    )


def draw_reliability(curve: Reliability, words: Mapping[str, str]) -> str:
    """Return predicted against observed shares, the diagonal being perfect."""
    points = list(zip(curve.predicted, curve.observed, strict=True))
    return draw_points(
        points,
        labels=[""] * len(points),
        marked=[True] * len(points),
        axes=(words["predicted"], words["observed"]),
        caption=words["calibrated"].replace("{error}", f"{curve.error:.4f}"),
        name="calibration",
        diagonal=True,
    )


def draw_lengths(slices: Mapping[str, Slice], name: str, words: Mapping[str, str]) -> str:
    """Return the model's NDCG over the length of the history; without two slices nothing."""
    known = [(label, part) for label, part in slices.items() if part.num_users]
    if len(known) < 2:
        return ""
    return draw_points(
        [(float(place), part.ndcg[name]) for place, (_, part) in enumerate(known)],
        labels=[f"{part.ndcg[name]:.4f}" for _, part in known],
        ticks=[f"{label} ({part.num_users:,})" for label, part in known],
        marked=[True] * len(known),
        axes=(words["length"], words["ndcg"]),
        caption=words["lengths"],
        name="lengths",
    )


def _tick(x: float, text: str) -> str:
    """Write below the axis; what would stand out of the drawing ends at its edge."""
    is_wide = x + len(text) * _LETTER_WIDTH / 2 > _WIDTH
    place, anchor = (_WIDTH, "end") if is_wide else (x, "middle")
    y = _HEIGHT - _BOTTOM + 18
    return f'<text x="{place:.1f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _marks(values: Sequence[float]) -> list[float]:
    """Return the ends and the middle of an axis; one mark where all values are equal.

    >>> _marks([1.0, 3.0]), _marks([0.0, 0.0])
    ([1.0, 2.0, 3.0], [0.0])
    """
    low, high = min(values), max(values)
    return list(dict.fromkeys([low, low + 0.5 * (high - low), high]))


def _scale(values: Sequence[float], start: float, stop: float) -> tuple[float, float]:
    """Return offset and factor that put the smallest value at start and the largest at stop."""
    low, high = min(values), max(values)
    factor = (stop - start) / (high - low) if high > low else 0.0
    return start - factor * low if factor else (start + stop) / 2, factor
