"""The results as one picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.measures import Result

OURS, LISTS, SINGLES, GENERATIVE, BAR = "#0b6e99", "#8a8f98", "#c9b79c", "#9b8bb4", "#c0392b"
INK, FAINT = "#2b2f36", "#e6e8eb"
LABEL_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": "#b5b9c0",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def draw(results: Sequence[Result], title: str) -> Figure:
    """Four panels; one whose scenario was not measured says so."""
    data = {result.scenario: result.data for result in results if not result.error}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 9), layout="constrained")
        axes = figure.subplots(2, 2)
        figure.suptitle(title, x=0.01, ha="left", fontsize=9)
        _panel(axes[0, 0], "Unique pairs", data.get("unique", {}), _draw_unique)
        reuse = {name: found for name, found in data.items() if name in ("passages", "questions")}
        _panel(axes[0, 1], "What repeats is cheaper", reuse, _draw_reuse)
        _panel(axes[1, 0], "Small requests beside a big one", data.get("beside", {}), _draw_beside)
        _panel(axes[1, 1], "Overload", data.get("overload", {}), _draw_overload)
    return figure


def save(path: Path, results: Sequence[Result], title: str) -> None:
    draw(results, title).savefig(path, dpi=130, facecolor="white")


def _panel(axes: Axes, title: str, data: Mapping[str, Any], draw_data: Any) -> None:
    axes.set_title(title)
    if data:
        draw_data(axes, data)
    else:
        axes.set_axis_off()
        axes.text(0.0, 0.9, "not measured", transform=axes.transAxes, style="italic")


def _draw_unique(axes: Axes, data: Mapping[str, Any]) -> None:
    """Median pairs a second of every contender, its range as a line, and where each bar stands."""
    series: dict[str, list[float]] = {}
    for one in data["measurements"]:
        series.setdefault(one["contender"], []).append(one["rate"])
    names = list(series)[::-1]
    medians = [median(series[name]) for name in names]
    axes.barh(names, medians, color=[_color(name) for name in names], height=0.72)
    for place, name in enumerate(names):
        axes.plot([min(series[name]), max(series[name])], [place, place], color=INK, linewidth=1)
        axes.text(max(series[name]) + max(medians) * 0.015, place, f"{medians[place]:.0f}", va="center", bbox=LABEL_BOX)
    limits = {f"{share:g} × {other}": share * median(series[other]) for other, share in data["bars"].items()}
    for (label, limit), dashes in zip(limits.items(), ((None, None), (4, 2), (1, 1.5)), strict=False):
        axes.axvline(limit, color=BAR, linewidth=1.4, dashes=dashes, label=f"{label} = {limit:.0f}")
    axes.legend(title="bars for " + data["ours"], loc="upper left", bbox_to_anchor=(-0.2, -0.13), ncols=3, fontsize=8)
    axes.set_xlabel("pairs a second (median of rounds; the line is the range)")
    axes.set_xlim(0, max(*map(max, series.values()), *limits.values()) * 1.1)
    axes.tick_params(axis="y", length=0)
    _grid(axes, "x")


def _color(name: str) -> str:
    kinds = {"ours": OURS, "list": LISTS, "single": SINGLES}
    return next((color for kind, color in kinds.items() if name.startswith(kind)), GENERATIVE)


def _draw_reuse(axes: Axes, data: Mapping[str, Any]) -> None:
    """How many times our own rate for unique pairs, on a logarithmic scale."""
    wanted = {"passages": 2.0, "questions": 20.0}
    names = {"passages": "repeated passages\n(score cache off)", "questions": "repeated questions\n(score cache on)"}
    bars = axes.bar([names[kind] for kind in data], [data[kind]["ratio"] for kind in data], color=OURS, width=0.5)
    for bar, kind in zip(bars, data, strict=True):
        centre = bar.get_x() + bar.get_width() / 2
        axes.text(centre, bar.get_height() * 1.06, f"{data[kind]['ratio']:.1f} ×", ha="center", weight="bold")
        axes.plot([centre - 0.35, centre + 0.35], [wanted[kind]] * 2, color=BAR, linewidth=1.5, linestyle=(0, (4, 2)))
        axes.text(centre + 0.36, wanted[kind], f"bar {wanted[kind]:g} ×", color=BAR, va="center", fontsize=8)
    axes.set_yscale("log")
    axes.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.set_ylim(0.8, max(120.0, 1.5 * max(data[kind]["ratio"] for kind in data)))
    axes.set_xlim(-0.6, len(data) - 0.2)
    axes.set_ylabel("times our rate for unique pairs")
    _grid(axes, "y")


def _draw_beside(axes: Axes, data: Mapping[str, Any]) -> None:
    """The part of small requests answered within a time."""
    for key, color, label in (("alone_s", LISTS, "alone"), ("beside_s", OURS, "beside the big one")):
        latencies_ms = [1000 * latency for latency in data[key]]
        if latencies_ms:
            axes.ecdf(latencies_ms, color=color, linewidth=2, label=f"{label} ({len(latencies_ms)})")
    axes.axhline(0.95, color=FAINT, linewidth=1.2, zorder=0)
    axes.annotate("p95", (1, 0.95), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    axes.set_xlabel("milliseconds from the moment the request was due")
    axes.set_ylabel("part of requests answered")
    axes.set_ylim(0, 1.03)
    axes.set_xlim(left=0)
    axes.legend(loc="lower right")
    _grid(axes, "x")


def _draw_overload(axes: Axes, data: Mapping[str, Any]) -> None:
    """Requests answered in time, a second, over the load that was offered."""
    loads = [one["load"] for one in data["loads"]]
    good = [one["good_per_s"] for one in data["loads"]]
    refused = [_refused_per_s(one) for one in data["loads"]]
    axes.plot(loads, [one["offered_per_s"] for one in data["loads"]], color=LISTS, marker=".", label="offered")
    axes.plot(loads, good, color=OURS, linewidth=2, marker="o", label="complete and in time")
    axes.plot(loads, refused, color=GENERATIVE, linewidth=1.5, marker="s", markersize=4, label="refused (429)")
    axes.axhline(0.9 * max(good), color=BAR, linewidth=1, linestyle=(0, (4, 2)), label="0.9 × the best rate")
    axes.set_xlabel("offered load, in units of the capacity")
    axes.set_ylabel("requests a second")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.legend(loc="upper left")
    _grid(axes, "y")


def _refused_per_s(one: Mapping[str, Any]) -> float:
    counts = one["counts"]
    total = sum(number for kind, number in counts.items() if kind not in ("late", "in time"))
    return float(one["offered_per_s"] * counts["refused"] / total) if total else 0.0


def _grid(axes: Axes, axis: Any) -> None:
    axes.grid(axis=axis, color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
