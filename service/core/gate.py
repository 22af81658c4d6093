"""Whether a checkpoint may rerank at all.

A language model that wasn't tuned to rank is a worse ranker than the retriever that it is to improve on (RankRAG,
arXiv 2407.02485, Table 6: ChatQA-1.5 as ranker, R@5 .682 where the retriever has .749). So a checkpoint is asked to
rank a probe: questions of which it is known what answers them. It passes if at least as many of them have a relevant
passage among the first five after reranking as before.

- *R@5*, because five passages go into the answer's prompt: what reranking does below them changes no answer.
- *At least as many*, and not "more": a retriever that is right already leaves nothing to gain, and a checkpoint
  that changes nothing does no harm.
- *No margin for chance*: counts are compared as they are. How many questions were won and lost says how sure that
  is; a probe of some hundred questions tells a ranker from none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from service.core.ranking import order_by_relevance
from service.errors import ConfigError
from service.types import Score

TOP_K: Final = 5

GateState: TypeAlias = Literal["unproven", "passed", "failed"]
GATE_STATES: Final[tuple[GateState, ...]] = ("unproven", "passed", "failed")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one question: whether a relevant passage is among the first five, in either order.

    `is_findable` says whether one is among the passages at all.
    """

    is_retrieved: bool
    is_reranked: bool
    is_findable: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of so many questions: those with a relevant passage among the first five, before and after reranking."""

    num_questions: int
    num_retrieved: int
    num_reranked: int
    num_won: int
    num_lost: int

    @property
    def is_passed(self) -> bool:
        return self.num_reranked >= self.num_retrieved

    @property
    def retrieved_recall(self) -> float:
        return self.num_retrieved / self.num_questions

    @property
    def reranked_recall(self) -> float:
        return self.num_reranked / self.num_questions

    @property
    def text(self) -> str:
        return (
            f"R@{TOP_K} {self.retrieved_recall:.3f} by the retriever, {self.reranked_recall:.3f} after reranking, "
            f"over {self.num_questions} questions ({self.num_won} won, {self.num_lost} lost)"
        )


def compare(is_relevant: Sequence[bool], scores: Sequence[Score | None]) -> Outcome:
    """Both orders of one question's passages, which come in the retriever's; equal scores keep that order."""
    order = order_by_relevance(scores)
    return Outcome(
        is_retrieved=any(is_relevant[:TOP_K]),
        is_reranked=any(is_relevant[index] for index in order[:TOP_K]),
        is_findable=any(is_relevant),
    )


def judge(outcomes: Sequence[Outcome]) -> Verdict:
    """The verdict over a whole probe.

    Raises:
        ConfigError: no question has a relevant passage among those that were ranked: such a probe passes anything.
    """
    if not any(outcome.is_findable for outcome in outcomes):
        raise ConfigError("the probe proves nothing: no question has a relevant passage among those to be ranked")
    return Verdict(
        num_questions=len(outcomes),
        num_retrieved=sum(outcome.is_retrieved for outcome in outcomes),
        num_reranked=sum(outcome.is_reranked for outcome in outcomes),
        num_won=sum(outcome.is_reranked and not outcome.is_retrieved for outcome in outcomes),
        num_lost=sum(outcome.is_retrieved and not outcome.is_reranked for outcome in outcomes),
    )


@dataclass(frozen=True, slots=True)
class GateStatus:
    """What is known so far, and whether the operator reranks in spite of it."""

    verdict: Verdict | None = None
    is_overridden: bool = False

    @property
    def state(self) -> GateState:
        if self.verdict is None:
            return "unproven"
        return "passed" if self.verdict.is_passed else "failed"

    @property
    def is_open(self) -> bool:
        """Whether the checkpoint may rerank: once it has passed, or where the operator says so."""
        return self.is_overridden or self.state == "passed"

    @property
    def text(self) -> str:
        found = "the probe is being ranked" if self.verdict is None else self.verdict.text
        reranking = f"reranking is {'on' if self.is_open else 'off'}"
        override = ", overridden by the operator" if self.is_overridden and self.state != "passed" else ""
        return f"{self.state}: {found}; {reranking}{override}"
