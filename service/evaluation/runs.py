"""Questions asked of a target, some at once; what came back is observed, not yet measured."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from service.core.ranking import is_part_of
from service.evaluation.collections import shuffled
from service.evaluation.contexts import Contexts
from service.evaluation.targets import Reply, Target
from service.types import JudgedQuestion

Item = TypeVar("Item")
Result = TypeVar("Result")


class Retrieves(Protocol):
    async def retrieve(self, question: str, top_n: int) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Effort:
    """How many questions are asked at once; `advance` hears of each that is done."""

    num_at_once: int
    advance: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Retrieved:
    question: JudgedQuestion
    before: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ranked:
    """Passage ids in the retriever's order with the relevance of each, and the ids in the order made of it."""

    question: JudgedQuestion
    before: tuple[str, ...]
    relevances: tuple[float, ...]
    after: tuple[str, ...]
    seconds: float
    num_tokens: int | None

    def labels(self) -> list[bool]:
        """Whether each of `before` is relevant."""
        return [any(is_part_of(id_, document) for document in self.question.relevant) for id_ in self.before]


@dataclass(frozen=True, slots=True)
class Answered:
    question: JudgedQuestion
    reply: Reply


async def retrieve_all(
    target: Retrieves, questions: Sequence[JudgedQuestion], *, top_n: int, effort: Effort
) -> list[Retrieved]:
    """The index's order; of questions with candidates, theirs."""

    async def retrieve(question: JudgedQuestion) -> Retrieved:
        if question.candidates:
            return Retrieved(question, tuple(passage.id for passage in question.candidates))
        return Retrieved(question, await target.retrieve(question.question, top_n))

    return await each(questions, retrieve, effort)


async def rank_all(
    target: Target, questions: Sequence[JudgedQuestion], *, top_n: int, seed: int, effort: Effort
) -> list[Ranked]:
    """Each question's candidates, shuffled, or what the target retrieves for it."""

    async def rank(question: JudgedQuestion) -> Ranked:
        if not question.candidates:
            found = await target.retrieve_and_rank(question.question, top_n)
            before = found.ids
        else:
            found = await target.rank(question.question, shuffled(question.candidates, seed, question.id))
            before = tuple(passage.id for passage in question.candidates)
        by_id = dict(zip(found.ids, found.relevances, strict=True))
        after = tuple(sorted(found.ids, key=lambda id_: -by_id[id_]))
        return Ranked(
            question, before, tuple(by_id[id_] for id_ in before), after, found.seconds, found.num_tokens
        )  # fmt: skip

    return await each(questions, rank, effort)


async def answer_all(
    target: Target, questions: Sequence[JudgedQuestion], contexts: Contexts, *, top_n: int | None, top_k: int | None,
    effort: Effort,
) -> list[Answered]:  # fmt: skip
    async def answer(question: JudgedQuestion) -> Answered:
        passages = await contexts(question)
        return Answered(question, await target.answer(question.question, passages, top_n=top_n, top_k=top_k))

    return await each(questions, answer, effort)


async def each(items: Sequence[Item], work: Callable[[Item], Awaitable[Result]], effort: Effort) -> list[Result]:
    """The results in the order of the items; the first failure ends all of it."""
    room = asyncio.Semaphore(effort.num_at_once)

    async def one(item: Item) -> Result:
        async with room:
            result = await work(item)
        effort.advance()
        return result

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the others are this one's cancelled sisters
    return [task.result() for task in tasks]
