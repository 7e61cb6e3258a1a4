"""The pictures of report.html, as inline SVG whose colours are the page's own CSS variables.

They follow the reader's light or dark theme, scale with the page, and come out the same, byte for byte, every time.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from prism.record import Record, Result
from prism.report import words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib draws with stand-in colours that occur nowhere else; the SVG gets var(--name) in their place.
COLOURS = {
    "ink": "#010101",
    "muted": "#020202",
    "line": "#030303",
    "card": "#040404",
    "accent": "#050505",
    "bad": "#060606",
    "control": "#070707",
    "second": "#080808",
    "third": "#090909",
    "heat": "#0a0a0a",
}
CURVES = ("accent", "control", "second", "third", "muted")
WIDTH = 4.4  # inches, 317 units: on a phone one unit is about one pixel, so ten-point text stays readable
POINTS = 400  # of a loss curve; more cannot be seen, and are not sent
DEEP = 0.65  # the share from which a cell is read better in the colour of the paper, on light and dark pages
CLASSES = 12  # a larger confusion matrix is drawn without numbers
SETTINGS = {
    "svg.hashsalt": "prism",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a label such as $AAPL is no formula
    "font.size": 10,
    "font.family": ["DejaVu Sans"],
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["line"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "xtick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.color": COLOURS["line"],
    "ytick.labelcolor": COLOURS["ink"],
    "ytick.major.size": 0,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": COLOURS["ink"],
}


def _svg(name: str, description: str, height: float, draw: Callable[[Axes], None]) -> str:
    """Draw one picture; `name` keeps its ids apart from those of the others on the page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return _inline(file.getvalue(), name, description)


def _inline(svg: str, name: str, description: str) -> str:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", body)
    body = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", body)
    for variable, colour in COLOURS.items():
        body = re.sub(rf"(fill|stroke): {colour}", rf"\1: var(--{variable})", body)
    box = re.search(r'viewBox="[^"]+"', body)
    said = escape(words.visible(description))
    head = f'<svg role="img" aria-label="{said}" {box[0] if box else ""} xmlns:xlink="{XLINK}">'
    return head + f"<title>{said}</title>" + body[body.index(">") + 1 :]


XLINK = "http://www.w3.org/1999/xlink"


def gains(result: Result) -> str:
    """A forest plot: one row a metric, its gain as a dot on its interval, beside the line of no gain."""
    shown = [record for record in result.records if record.tier != "cost" and math.isfinite(record.gain.value)]
    if not shown:
        return ""
    scores = [words.in_favour(record.gain, record) for record in shown]

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=COLOURS["muted"], linewidth=1)
        for row, (record, score) in enumerate(zip(shown, scores)):
            clear = score.ci[0] > 0 or score.ci[1] < 0
            colour = COLOURS["muted" if not clear else "accent" if score.value > 0 else "bad"]
            fill = colour if clear else COLOURS["card"]
            axes.plot(score.ci, (row, row), color=colour, linewidth=2, solid_capstyle="round")
            axes.plot(score.value, row, "o", color=colour, markerfacecolor=fill, markersize=7)
            for verdict in record.verdicts:
                if verdict.key == "gain":
                    axes.plot(verdict.threshold, row, "|", color=COLOURS["control"], markersize=16, markeredgewidth=2)
        axes.set_yticks(range(len(shown)), [words.visible(words.metric_name(record), 24) for record in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.grid(axis="x")
        axes.set_xlabel("gain: worse ← 0 → better")

    said = "; ".join(f"{record.metric} {words.difference(score)}" for record, score in zip(shown, scores))
    return _svg(_name(result, "gains"), f"Gains with 95 % intervals: {said}", 0.7 + 0.36 * len(shown), draw)


def controls(result: Result) -> str:
    """Baseline, controls and tuned of the first metric that has controls, each with its interval."""
    record = next((record for record in result.records if record.controls and record.n), None)
    if record is None:
        return ""
    rows = _beside(record)
    if not rows:
        return ""

    def draw(axes: Axes) -> None:
        for verdict in record.verdicts:
            if verdict.key in ("floor", "ceiling"):
                axes.axvline(verdict.threshold, color=COLOURS["control"], linewidth=1.5, linestyle=(0, (4, 3)))
        for row, (name, value, ends) in enumerate(rows):
            colour = COLOURS["accent" if name == "tuned" else "muted"]
            axes.plot(ends, (row, row), color=colour, linewidth=2, solid_capstyle="round")
            axes.plot(value, row, "o", color=colour, markersize=7)
            axes.annotate(words.number(value), (value, row), (0, 7), textcoords="offset points", ha="center")
        axes.set_yticks(range(len(rows)), [words.visible(name, 24) for name, _, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.7)
        axes.margins(x=0.08)
        axes.grid(axis="x")
        axes.set_xlabel(words.visible(record.metric, 40))

    said = "; ".join(f"{name} {words.number(value)}" for name, value, _ in rows)
    return _svg(_name(result, "controls"), f"{record.metric}: {said}", 0.7 + 0.42 * len(rows), draw)


def _beside(record: Record) -> list[tuple[str, float, tuple[float, float]]]:
    middle = [(words.control_name(name), control.value, control.ci) for name, control in record.controls.items()]
    ends = [("baseline", record.baseline.value, record.baseline.ci), ("tuned", record.tuned.value, record.tuned.ci)]
    rows = [ends[0], *sorted(middle, key=lambda row: row[1]), ends[1]]
    return [row for row in rows if math.isfinite(row[1])]


def confusion(result: Result, name: str, answers: Mapping[str, Any]) -> str:
    """One confusion matrix: counts, and the share of each true class as the depth of the colour."""
    counts, columns = answers["confusion"], answers["labels"]
    truths = columns[: len(counts)]
    shares = [[cell / max(1, sum(row)) for cell in row] for row in counts]
    labels = [words.visible(label, 14) for label in columns]

    def draw(axes: Axes) -> None:
        from matplotlib.patches import Rectangle

        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                place = (j - 0.47, i - 0.47)
                axes.add_patch(Rectangle(place, 0.94, 0.94, color=COLOURS["line"], alpha=0.4, linewidth=0))
                axes.add_patch(Rectangle(place, 0.94, 0.94, color=COLOURS["heat"], alpha=share, linewidth=0))
                if len(columns) <= CLASSES:
                    ink = COLOURS["card" if share > DEEP else "ink"]
                    axes.text(
                        j, i, f"{counts[i][j]:,}", color=ink, ha="center", va="bottom", fontsize=11, in_layout=False
                    )
                    axes.text(
                        j, i + 0.08, f"{share:.0%}", color=ink, ha="center", va="top", fontsize=8, in_layout=False
                    )
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(truths) - 0.5, -0.5)
        turn = 0 if max(map(len, labels)) * len(labels) <= 40 else 35
        axes.set_xticks(range(len(columns)), labels, rotation=turn, ha="right" if turn else "center")
        axes.set_yticks(range(len(truths)), labels[: len(truths)])
        axes.tick_params(length=0, labelsize=10 if len(columns) <= CLASSES else 5)
        axes.set_xlabel("answered")
        axes.set_ylabel("truth")
        axes.spines["bottom"].set_visible(False)

    right = "; ".join(
        f"{truth}: {row[i]:,} of {sum(row):,} right" for i, (truth, row) in enumerate(zip(truths, counts))
    )
    height = 0.9 + 0.62 * min(len(truths), 8)
    return _svg(
        _name(result, f"confusion-{name}"), f"Confusion matrix, {words.control_name(name)}: {right}", height, draw
    )


def loss(result: Result) -> str:
    """Training loss by step, one curve a seed."""
    curves = {seed: _finite(curve) for seed, curve in (result.details.get("loss") or {}).items()}
    curves = {seed: curve for seed, curve in curves.items() if len(curve) > 1}
    if not curves:
        return ""

    def draw(axes: Axes) -> None:
        for (seed, curve), colour in zip(curves.items(), CURVES * len(curves)):
            steps, losses = zip(*curve)
            axes.plot(steps, losses, color=COLOURS[colour], linewidth=1.6, label=f"seed {seed}")
        if len(curves) > 1:
            axes.legend()
        axes.tick_params(axis="y", labelcolor=COLOURS["muted"])
        axes.grid(axis="y")
        axes.set_xlabel("step")
        axes.set_ylabel("training loss")

    said = "; ".join(
        f"seed {seed} from {words.number(curve[0][1])} to {words.number(curve[-1][1])} in {curve[-1][0]:,} steps"
        for seed, curve in curves.items()
    )
    return _svg(_name(result, "loss"), f"Training loss: {said}", 2.6, draw)


def _finite(curve: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    kept = [point for point in curve if point[1] is not None and math.isfinite(point[1])]
    return kept[:: math.ceil(len(kept) / POINTS) or 1]


def _name(result: Result, plot: str) -> str:
    return re.sub(r"\W+", "-", f"{result.id}-{plot}")
