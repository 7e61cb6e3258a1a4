"""The figures of report.html, as inline SVG whose colours are CSS variables of the page.

They follow the reader's light or dark theme, scale with the page, and are identical byte for byte every time.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prism.errors import StoreError
from prism.report import words
from prism.store import Store, file_digest, write_text
from prism.store.provenance import versions
from prism.untrusted import visible
from prism.verdicts.record import Record, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib draws with placeholder colours that occur nowhere else; the SVG has var(--name) instead.
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
WIDTH = 4.4  # inches, 317 units: a unit is about a pixel on a phone, so ten-point text is readable
POINTS = 400  # of a loss curve; more would not be visible
DEEP = 0.65  # the share from which a cell's text is readable in the card colour, on light and dark pages
CLASSES = 12  # more classes: draw the confusion matrix without numbers
SETTINGS = {
    "svg.hashsalt": "prism",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a label such as $AAPL is not a formula
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


@dataclass(frozen=True)
class Plot:
    """A figure to be drawn. `draw` sees only `data` (JSON types), so that the figure can be cached by its data."""

    name: str  # prefix of its ids, which must be unique on the page
    alt: str  # the alternative text
    height: float  # inches
    draw: Callable[[Axes, Any], None]
    data: Any


def picture(plot: Plot, store: Store | None) -> str:
    """The plot as inline SVG. A cached one comes from the store, without importing matplotlib."""
    if store is None:
        return _svg(plot)
    identity = {
        "draw": plot.draw.__name__,
        **{key: getattr(plot, key) for key in ("name", "alt", "height", "data")},
        "source": file_digest(Path(__file__)),
        "versions": versions(["matplotlib"]),
    }

    def work(folder: Path) -> dict[str, Any]:
        write_text(folder / "figure.svg", _svg(plot))
        return {}

    try:
        return (store.make("figures", identity, work) / "figure.svg").read_text(encoding="utf-8")
    except StoreError:  # a store that this process cannot write to: draw without it
        return _svg(plot)


def _svg(plot: Plot) -> str:
    chosen = os.environ.pop("MPLBACKEND", None)  # a notebook's may name a module that is not here; none draws this
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    finally:
        os.environ.update({"MPLBACKEND": chosen} if chosen else {})

    with rc_context(SETTINGS):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH, plot.height), layout="constrained")
        plot.draw(figure.subplots(), plot.data)
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return _inline(file.getvalue(), plot.name, plot.alt)


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
    alt = escape(visible(description))
    head = f'<svg role="img" aria-label="{alt}" {box[0] if box else ""} xmlns:xlink="{XLINK}">'
    return head + f"<title>{alt}</title>" + body[body.index(">") + 1 :]


XLINK = "http://www.w3.org/1999/xlink"


def gains(result: Result) -> Plot | None:
    """A forest plot: one row per metric, its gain as a dot on its interval, with a line at 0."""
    shown = [record for record in result.records if record.tier != "cost" and math.isfinite(record.gain.value)]
    if not shown:
        return None
    scores = [words.in_favour(record.gain, record) for record in shown]
    rows = [
        {
            "name": visible(words.metric_name(record), 24),
            "value": score.value,
            "ci": score.ci,
            "required": [verdict.threshold for verdict in record.verdicts if verdict.key == "gain"],
        }
        for record, score in zip(shown, scores)
    ]
    alt = "; ".join(f"{record.metric} {words.difference(score)}" for record, score in zip(shown, scores))
    height = 0.7 + 0.36 * len(shown)
    return Plot(_name(result, "gains"), f"Gains with 95 % intervals: {alt}", height, _gains, rows)


def _gains(axes: Axes, rows: Any) -> None:
    axes.axvline(0, color=COLOURS["muted"], linewidth=1)
    for place, row in enumerate(rows):
        clear = row["ci"][0] > 0 or row["ci"][1] < 0
        colour = COLOURS["muted" if not clear else "accent" if row["value"] > 0 else "bad"]
        fill = colour if clear else COLOURS["card"]
        axes.plot(row["ci"], (place, place), color=colour, linewidth=2, solid_capstyle="round")
        axes.plot(row["value"], place, "o", color=colour, markerfacecolor=fill, markersize=7)
        for required in row["required"]:
            axes.plot(required, place, "|", color=COLOURS["control"], markersize=16, markeredgewidth=2)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x")
    axes.set_xlabel("gain: worse ← 0 → better")


def controls(result: Result) -> Plot | None:
    """Baseline, controls and tuned of the first metric that has controls, each with its interval."""
    record = next((record for record in result.records if record.controls and record.n), None)
    rows = _control_rows(record) if record else []
    if record is None or not rows:
        return None
    data = {
        "metric": visible(record.metric, 40),
        "limits": [verdict.threshold for verdict in record.verdicts if verdict.key in ("floor", "ceiling")],
        "rows": [
            {"name": visible(name, 24), "value": value, "label": words.number(value), "ci": ends}
            for name, value, ends in rows
        ],
    }
    alt = "; ".join(f"{name} {words.number(value)}" for name, value, _ in rows)
    return Plot(_name(result, "controls"), f"{record.metric}: {alt}", 0.7 + 0.42 * len(rows), _controls, data)


def _controls(axes: Axes, data: Any) -> None:
    rows = data["rows"]
    for limit in data["limits"]:
        axes.axvline(limit, color=COLOURS["control"], linewidth=1.5, linestyle=(0, (4, 3)))
    for place, row in enumerate(rows):
        colour = COLOURS["accent" if row["name"] == "tuned" else "muted"]
        axes.plot(row["ci"], (place, place), color=colour, linewidth=2, solid_capstyle="round")
        axes.plot(row["value"], place, "o", color=colour, markersize=7)
        box = {"facecolor": COLOURS["card"], "edgecolor": "none", "pad": 1}  # a limit's line may be behind the label
        label = axes.annotate(row["label"], (row["value"], place), (0, 7), textcoords="offset points", ha="center")
        label.set_bbox(box)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.7)
    axes.margins(x=0.08)
    axes.grid(axis="x")
    axes.set_xlabel(data["metric"])


def _control_rows(record: Record) -> list[tuple[str, float, tuple[float, float]]]:
    middle = [(words.control_name(name), control.value, control.ci) for name, control in record.controls.items()]
    ends = [("baseline", record.baseline.value, record.baseline.ci), ("tuned", record.tuned.value, record.tuned.ci)]
    rows = [ends[0], *sorted(middle, key=lambda row: row[1]), ends[1]]
    return [row for row in rows if math.isfinite(row[1])]


def confusion(result: Result, name: str, answers: Mapping[str, Any]) -> Plot:
    """One confusion matrix: counts, and the share of each true class as colour intensity."""
    counts, columns = answers["confusion"], answers["labels"]
    truths = columns[: len(counts)]
    right = "; ".join(
        f"{truth}: {row[i]:,} of {sum(row):,} right" for i, (truth, row) in enumerate(zip(truths, counts))
    )
    alt = f"Confusion matrix, {words.control_name(name)}: {right}"
    data = {"counts": counts, "labels": [visible(label, 14) for label in columns]}
    height = 0.9 + 0.62 * min(len(truths), 8)
    return Plot(_name(result, f"confusion-{name}"), alt, height, _confusion, data)


def _confusion(axes: Axes, data: Any) -> None:
    from matplotlib.patches import Rectangle

    counts, labels = data["counts"], data["labels"]
    for i, row in enumerate(counts):
        for j, cell in enumerate(row):
            share = cell / max(1, sum(row))
            place = (j - 0.47, i - 0.47)
            axes.add_patch(Rectangle(place, 0.94, 0.94, color=COLOURS["line"], alpha=0.4, linewidth=0))
            axes.add_patch(Rectangle(place, 0.94, 0.94, color=COLOURS["heat"], alpha=share, linewidth=0))
            if len(labels) <= CLASSES:
                style: dict[str, Any] = {"ha": "center", "in_layout": False}
                style["color"] = COLOURS["card" if share > DEEP else "ink"]
                axes.text(j, i, f"{cell:,}", va="bottom", fontsize=11, **style)
                axes.text(j, i + 0.08, f"{share:.0%}", va="top", fontsize=8, **style)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_ylim(len(counts) - 0.5, -0.5)
    turn = 0 if max(map(len, labels)) * len(labels) <= 40 else 35
    axes.set_xticks(range(len(labels)), labels, rotation=turn, ha="right" if turn else "center")
    axes.set_yticks(range(len(counts)), labels[: len(counts)])
    axes.tick_params(length=0, labelsize=10 if len(labels) <= CLASSES else 5)
    axes.set_xlabel("answered")
    axes.set_ylabel("truth")
    axes.spines["bottom"].set_visible(False)


def calibration(result: Result) -> Plot | None:
    """A reliability diagram: how often the likeliest label is right, by the model's probability for it."""
    found = result.details.get("calibration") or {}
    if not found:
        return None
    alt = "; ".join(
        f"{name}, expected calibration error {words.number(part['ece'])}: "
        + ", ".join(f"{words.number(row['right'])} right at {words.number(row['probability'])}" for row in part["bins"])
        for name, part in found.items()
    )
    return Plot(_name(result, "calibration"), f"Reliability of label probabilities: {alt}", 2.9, _calibration, found)


def _calibration(axes: Axes, data: Any) -> None:
    axes.plot((0, 1), (0, 1), color=COLOURS["muted"], linewidth=1, linestyle=(0, (4, 3)))
    for (name, part), colour in zip(data.items(), CURVES * len(data)):
        for row in part["bins"]:
            axes.plot((row["probability"],) * 2, row["ci"], color=COLOURS[colour], linewidth=1.6)
            size = 4 + 8 * math.sqrt(row["n"] / part["n"])
            axes.plot(row["probability"], row["right"], "o", color=COLOURS[colour], markersize=size)
        line = [(row["probability"], row["right"]) for row in part["bins"]]
        axes.plot(*zip(*line), color=COLOURS[colour], linewidth=1, label=name)
    if len(data) > 1:
        axes.legend()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.grid()
    axes.tick_params(axis="y", labelcolor=COLOURS["muted"])
    axes.set_xlabel("probability of the likeliest label")
    axes.set_ylabel("share right")


def loss(result: Result) -> Plot | None:
    """Training loss by step, one curve per seed."""
    curves = {seed: _finite(curve) for seed, curve in (result.details.get("loss") or {}).items()}
    curves = {seed: curve for seed, curve in curves.items() if len(curve) > 1}
    if not curves:
        return None
    alt = "; ".join(
        f"seed {seed} from {words.number(curve[0][1])} to {words.number(curve[-1][1])} in {curve[-1][0]:,} steps"
        for seed, curve in curves.items()
    )
    return Plot(_name(result, "loss"), f"Training loss: {alt}", 2.6, _loss, curves)


def _loss(axes: Axes, curves: Any) -> None:
    for (seed, curve), colour in zip(curves.items(), CURVES * len(curves)):
        steps, losses = zip(*curve)
        axes.plot(steps, losses, color=COLOURS[colour], linewidth=1.6, label=f"seed {seed}")
    if len(curves) > 1:
        axes.legend()
    axes.tick_params(axis="y", labelcolor=COLOURS["muted"])
    axes.grid(axis="y")
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")


def _finite(curve: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    points = [point for point in curve if point[1] is not None and math.isfinite(point[1])]
    return points[:: math.ceil(len(points) / POINTS) or 1]


def _name(result: Result, plot: str) -> str:
    return re.sub(r"\W+", "-", f"{result.id}-{plot}")
