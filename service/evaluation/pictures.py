"""Pictures of a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from service.evaluation.measures import Bin

BEFORE, AFTER, INK, FAINT = "#8a8f98", "#0b6e99", "#2b2f36", "#e6e8eb"
STYLE: Final[Any] = {
    "font.size": 9, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.edgecolor": "#b5b9c0", "axes.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    "text.color": INK, "xtick.color": INK, "ytick.color": INK, "legend.frameon": False,
}  # fmt: skip


def draw_measures(path: Path, measures: Mapping[str, Any], title: str) -> None:
    """Both orders side by side, and their difference with its interval; or one order with its own."""
    with mpl.rc_context(STYLE):
        is_compared = all("before" in found for found in measures.values())
        figure = Figure(figsize=(10 if is_compared else 6, 4), layout="constrained")
        if is_compared:
            left, right = figure.subplots(1, 2, width_ratios=[3, 2])
            _draw_both(left, measures)
            _draw_intervals(right, measures, "difference")
            right.axhline(0, color=BEFORE, linewidth=1)
            right.set_title("after minus before, 95 %")
        else:
            left = figure.subplots()
            _draw_intervals(left, measures, "mean")
            left.set_ylim(0, 1.05)
        left.set_title(title)
        figure.savefig(path, dpi=130, facecolor="white")


def _draw_both(axes: Axes, measures: Mapping[str, Any]) -> None:
    for shift, name, color in ((-0.2, "before", BEFORE), (0.2, "after", AFTER)):
        heights = [found[name] for found in measures.values()]
        axes.bar([place + shift for place in range(len(heights))], heights, 0.38, color=color, label=name)
    axes.set_xticks(range(len(measures)), list(measures))
    axes.set_ylim(0, 1.05)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)


def _draw_intervals(axes: Axes, measures: Mapping[str, Any], middle: str) -> None:
    values = [found[middle] for found in measures.values()]
    whiskers = [
        [max(found[middle] - found["low"], 0.0) for found in measures.values()],
        [max(found["high"] - found[middle], 0.0) for found in measures.values()],
    ]
    axes.errorbar(range(len(values)), values, yerr=whiskers, fmt="o", color=AFTER, ecolor=INK, markersize=5, capsize=3)
    axes.set_xticks(range(len(measures)), list(measures))


def draw_reliability(path: Path, curves: Mapping[str, Sequence[Bin]]) -> None:
    """What share of the pairs with a score is relevant, over that score; below, how many pairs there are."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5, 5.5), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        top.set_title("Is P(True) a probability?")
        top.plot([0, 1], [0, 1], color=FAINT, zorder=0)
        for (name, bins), color in zip(curves.items(), (AFTER,) if len(curves) == 1 else (BEFORE, AFTER), strict=True):
            _draw_curve(top, bottom, name, bins, color)
        top.set_ylabel("share that is relevant")
        bottom.set_xlabel("P(True)")
        bottom.set_ylabel("pairs")
        bottom.set_yscale("log")
        top.legend()
        figure.savefig(path, dpi=130, facecolor="white")


def _draw_curve(top: Axes, bottom: Axes, name: str, bins: Sequence[Bin], color: str) -> None:
    top.plot(
        [b.mean_score for b in bins], [b.share_relevant for b in bins], "o-", color=color, label=name, markersize=4
    )
    widths = [0.9 * (b.high - b.low) for b in bins]
    bottom.bar([b.low for b in bins], [b.num_pairs for b in bins], widths, align="edge", color=color, alpha=0.6)
