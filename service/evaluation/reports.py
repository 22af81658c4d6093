"""What a run comes to: rows for the terminal and the same as data. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, Final, TypeVar

from ir_measures import R

from service.core.gate import Outcome, Verdict, compare, judge
from service.errors import ConfigError
from service.evaluation.measures import (
    MEASURES,
    Bin,
    abstention,
    expected_calibration_error,
    mean_interval,
    per_question,
    percentiles_ms,
    reliability,
)
from service.evaluation.runs import Answered, Ranked, Retrieved
from service.evaluation.squad import exact_match, f1
from service.types import JudgedQuestion, Score

ANSWER_MEASURES: Final = (R @ 1, R @ 5)

Data = dict[str, Any]
Observed = TypeVar("Observed", Retrieved, Ranked)


@dataclass(frozen=True, slots=True)
class Report:
    """A table, lines below it, and all of it as JSON would have it; `reliability` by name, to be drawn."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    results: Data = field(default_factory=dict)
    reliability: Mapping[str, Sequence[Bin]] = field(default_factory=dict)


def report_retrieval(found: Sequence[Retrieved], seed: int) -> Report:
    """Raises ConfigError where nothing is judged."""
    judged = _judged(found)
    values = per_question(
        _relevant([one.question for one in judged]),
        {one.question.id: one.before for one in judged},
        _measures_to(max(len(one.before) for one in judged)),
    )
    measures = {name: _mean(column, seed) for name, column in values.items()}
    rows = tuple((name, f"{m['mean']:.4f}", _range(m, sign="")) for name, m in measures.items())
    counts = {"questions": len(found), "judged": len(judged)}
    return Report("retrieval", ("", "retriever", "95 %"), rows, (), {"counts": counts, "measures": measures})


def report_ranking(found: Sequence[Ranked], seed: int) -> Report:
    """Before and after side by side, with paired intervals; how well P(True) is calibrated; the cost.

    Raises:
        ConfigError: nothing is judged.
    """
    judged = _judged(found)
    measures = _before_and_after(
        _relevant([one.question for one in judged]),
        {one.question.id: one.before for one in judged},
        {one.question.id: one.after for one in judged},
        _measures_to(max(len(one.before) for one in judged)),
        seed,
    )
    bins = reliability(*judged_pairs(judged))
    cost = _ranking_cost(found)
    calibration = {"ece": expected_calibration_error(bins), "bins": [asdict(bin_) for bin_ in bins]}
    counts = {"questions": len(found), "judged": len(judged)}
    notes = (f"ECE {calibration['ece']:.4f} over {sum(b.num_pairs for b in bins)} judged pairs", _cost_text(cost))
    results = {"counts": counts, "measures": measures, "calibration": calibration, "cost": cost}
    return Report("reranking", _COLUMNS, _rows(measures), notes, results, {"P(True)": bins})


def report_answers(found: Sequence[Answered], seed: int) -> Report:
    """Answers that can be compared, abstentions, and R@k of what they were made from."""
    judged = [one for one in found if one.question.relevant and one.reply.retrieved]
    measures = _before_and_after(
        _relevant([one.question for one in judged]),
        {one.question.id: one.reply.retrieved for one in judged},
        {one.question.id: one.reply.kept for one in judged},
        ANSWER_MEASURES,
        seed,
    )
    short = [(one.reply.text, one.question.answers) for one in found if one.question.answers]
    quality = {
        name: _mean([measure(text, answers) for text, answers in short], seed)
        for name, measure in (("EM", exact_match), ("F1", f1))
        if short
    }
    gave_up = abstention(
        [one.reply.is_abstention for one in found], [one.question.answers != () for one in found]
    )  # fmt: skip
    cost = {
        "pairs": sum(one.reply.num_pairs for one in found),
        "prompt_tokens": sum(one.reply.num_tokens for one in found),
        "latency_ms": percentiles_ms([one.reply.seconds for one in found]),
    }
    rows = _rows(measures) + tuple(
        (name, "", f"{m['mean']:.4f}", "", _range(m, sign="")) for name, m in quality.items()
    )
    counts = {"questions": len(found), "judged": len(judged), "with_short_answers": len(short)}
    results = {
        "counts": counts, "measures": measures, "answers": quality, "abstention": asdict(gave_up), "cost": cost
    }  # fmt: skip
    text = (
        f"{len(found) - gave_up.num_unanswerable} questions with an answer, {gave_up.num_unanswerable} without; "
        f"abstained on {gave_up.num_abstained}: precision {_share(gave_up.precision)}, "
        f"recall {_share(gave_up.recall)}, on {_share(gave_up.share_of_answerable)} of those with an answer"
    )
    return Report("answers", _COLUMNS, rows, (text, _cost_text(cost)), results)


def report_calibration(before: Sequence[Bin], after: Sequence[Bin], fitted: Data) -> Report:
    """Over pairs that the calibration was not fitted to."""
    eces = {"before": expected_calibration_error(before), "after": expected_calibration_error(after)}
    bins = {name: [asdict(bin_) for bin_ in found] for name, found in (("before", before), ("after", after))}
    num_pairs = sum(bin_.num_pairs for bin_ in before)
    return Report(
        "calibration",
        ("", "before", "after"),
        (("ECE, held out", f"{eces['before']:.4f}", f"{eces['after']:.4f}"),),
        (f"slope {fitted['slope']:.4f}, intercept {fitted['intercept']:.4f}, fitted to {fitted['num_pairs']} pairs",),
        {"ece": eces, "bins": bins, "fitted": fitted, "counts": {"held_out_pairs": num_pairs}},
        {"before": before, "after": after},
    )


def _judged(found: Sequence[Observed]) -> list[Observed]:
    judged = [one for one in found if one.question.relevant]
    if not judged:
        raise ConfigError("no question has a passage that is known to be relevant: there is nothing to measure")
    return judged


def verdict_of(found: Sequence[Ranked]) -> Verdict:
    """Raises ConfigError where the probe proves nothing."""
    return judge([_outcome(one) for one in found])


def _outcome(one: Ranked) -> Outcome:
    return compare(one.labels(), [Score(relevance, 1.0) for relevance in one.relevances])


def judged_pairs(found: Sequence[Ranked]) -> tuple[list[float], list[bool]]:
    """The relevance and the truth of every pair of a judged question."""
    scores = [relevance for one in found for relevance in one.relevances]
    return scores, [label for one in found for label in one.labels()]


_COLUMNS: Final = ("", "before", "after", "difference", "95 %")


def _rows(measures: Mapping[str, Data]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (name, f"{m['before']:.4f}", f"{m['after']:.4f}", f"{m['difference']:+.4f}", _range(m))
        for name, m in measures.items()
    )


def _before_and_after(
    relevant: Mapping[str, Mapping[str, int]], before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]],
    measures: Sequence[Any], seed: int,
) -> dict[str, Data]:  # fmt: skip
    """Means and the interval of the paired difference."""
    if not relevant:
        return {}
    old, new = per_question(relevant, before, measures), per_question(relevant, after, measures)
    found = {}
    for name in old:
        differences = [b - a for a, b in zip(old[name], new[name], strict=True)]
        interval = mean_interval(differences, seed)
        found[name] = {
            "before": fmean(old[name]), "after": fmean(new[name]), "difference": fmean(differences),
            "low": interval.low, "high": interval.high,
        }  # fmt: skip
    return found


def _relevant(questions: Sequence[JudgedQuestion]) -> dict[str, Mapping[str, int]]:
    return {question.id: question.relevant for question in questions}


def _measures_to(depth: int) -> list[Any]:
    """Those that look no deeper than the rankings are."""
    return [measure for measure in MEASURES if measure.params.get("cutoff", 0) <= depth]


def _mean(values: Sequence[float], seed: int) -> Data:
    interval = mean_interval(values, seed)
    return {"mean": fmean(values), "low": interval.low, "high": interval.high, "count": len(values)}


def _ranking_cost(found: Sequence[Ranked]) -> Data:
    tokens = [one.num_tokens for one in found]
    return {
        "pairs": sum(len(one.before) for one in found),
        "prompt_tokens": None if None in tokens else sum(token or 0 for token in tokens),
        "latency_ms": percentiles_ms([one.seconds for one in found]),
    }


def _cost_text(cost: Data) -> str:
    latency = ", ".join(f"{name} {ms:.0f} ms" for name, ms in cost["latency_ms"].items())
    tokens = "unknown" if cost["prompt_tokens"] is None else f"{cost['prompt_tokens']:,}"
    return f"{cost['pairs']:,} pairs scored, prompt tokens {tokens}; a question took {latency}"


def _range(interval: Data, sign: str = "+") -> str:
    return f"{interval['low']:{sign}.4f} … {interval['high']:{sign}.4f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
