"""A load run as one page that needs nothing beside it."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.measures import Verdict
from loadtest.outcomes import End, Measures, Visit, per_second
from loadtest.picture import FAINT, GENERATIVE, INK, LISTS, OURS, STYLE
from loadtest.profiles import Profile, Span
from loadtest.resources import Sample

COLORS = {End.OK: OURS, End.REFUSED: GENERATIVE, End.TIMED_OUT: "#d68910", End.ERROR: "#c0392b", End.UNANSWERED: INK}
HELD = {"rss_bytes": ("memory, MiB", 2**20), "fds": ("file descriptors", 1), "tasks": ("tasks", 1),
        "connections": ("connections", 1)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """What was offered and what came of it."""

    name: str
    spans: Sequence[Span]
    visits: Sequence[Visit]
    samples: Sequence[Sample]
    measures: Measures


def write_page(
    path: Path, run: Run, verdicts: Sequence[Verdict], conditions: Mapping[str, Any], profile: Profile
) -> None:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    names = ["", *(f"{one.name}." for one in run.spans if one.is_measured), *_tasks(run)]
    text = templates.get_template("load_page.html.j2").render(
        run=run, verdicts=verdicts, conditions=conditions, profile=profile,
        groups={name.rstrip(".") or "all": _group(run.measures, name) for name in names},
        pictures=[(title, _encoded(figure)) for title, figure in pictures(run)],
    )  # fmt: skip
    path.write_text(text, encoding="utf-8")


def _tasks(run: Run) -> list[str]:
    return [f"{task}." for task in sorted({visit.task for visit in run.visits})]


def _group(measures: Measures, prefix: str) -> dict[str, str]:
    """The measures with this prefix, or with none."""
    return {
        name.removeprefix(prefix): f"{value:.4g}"
        for name, value in measures.items()
        if name.startswith(prefix) and "." not in name.removeprefix(prefix)
    }


def _encoded(figure: Figure) -> str:
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110, facecolor="white")
    return base64.b64encode(file.getvalue()).decode()


def pictures(run: Run) -> list[tuple[str, Figure]]:
    with mpl.rc_context(STYLE):
        found = [
            ("How requests ended, by the second in which they were due", _drawn(run, _draw_ends)),
            ("Time from the moment that a request was due, each a point", _drawn(run, _draw_times)),
            ("The part answered within a time", _drawn(run, _draw_shares)),
        ]
        if run.samples:
            found.append(("What the service held", _draw_held(run)))
    return found


def _drawn(run: Run, draw: Any) -> Figure:
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots()
    draw(axes, run)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure


def _draw_ends(axes: Axes, run: Run) -> None:
    num_seconds = max(int(run.spans[-1].end_s), 1)
    counts = per_second(run.visits, num_seconds)
    shown = [end for end in COLORS if any(counts[end])]
    axes.stackplot(
        range(num_seconds), *(counts[end] for end in shown), colors=[COLORS[end] for end in shown], labels=shown,
        step="post",
    )  # fmt: skip
    _name_phases(axes, run.spans)
    axes.set_xlabel("seconds")
    axes.set_ylabel("requests a second")
    axes.legend(loc="upper left", ncols=len(shown))


def _draw_times(axes: Axes, run: Run) -> None:
    for end in COLORS:
        mine = [visit for visit in run.visits if visit.end is end]
        if mine:
            due, took = [visit.due_s for visit in mine], [1000 * max(visit.e2e_s, 1e-4) for visit in mine]
            axes.scatter(due, took, s=6, color=COLORS[end], alpha=0.5, label=end, edgecolors="none", rasterized=True)
    axes.set_yscale("log")
    _name_phases(axes, run.spans)
    axes.set_xlabel("seconds")
    axes.set_ylabel("milliseconds")
    axes.legend(loc="upper left", ncols=len(COLORS))


def _draw_shares(axes: Axes, run: Run) -> None:
    answered = [visit for visit in run.visits if visit.end is End.OK]
    series = {task: [1000 * v.e2e_s for v in answered if v.task == task] for task in sorted({v.task for v in answered})}
    series["first words"] = [1000 * visit.ttft_s for visit in answered if visit.ttft_s is not None]
    for (name, values), color in zip(series.items(), (OURS, GENERATIVE, LISTS, "#d68910", INK), strict=False):
        if values:
            axes.ecdf(values, color=color, linewidth=1.8, label=f"{name} ({len(values)})")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("milliseconds")
    axes.set_ylabel("part")
    axes.legend(loc="lower right")


def _draw_held(run: Run) -> Figure:
    names = [name for name in HELD if any(name in one.values for one in run.samples)]
    figure = Figure(figsize=(11, 1.7 * len(names) + 0.4), layout="constrained")
    for axes, name in zip(figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0], names, strict=True):
        title, unit = HELD[name]
        mine = [one for one in run.samples if name in one.values]
        axes.plot([one.at_s for one in mine], [one.values[name] / unit for one in mine], color=OURS, linewidth=1.3)
        axes.set_ylabel(title)
        axes.grid(axis="y", color=FAINT, linewidth=0.8)
    return figure


def _name_phases(axes: Axes, spans: Sequence[Span]) -> None:
    axes.set_xlim(0, spans[-1].end_s)
    for span in spans[1:]:
        axes.axvline(span.begin_s, color=LISTS, linewidth=0.8, linestyle=(0, (3, 3)))
    for span in spans:
        axes.annotate(
            span.name, (span.begin_s, 1.0), xycoords=("data", "axes fraction"), va="bottom", fontsize=7, color=LISTS
        )
