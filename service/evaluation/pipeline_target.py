"""The service's own pipeline as the target of an evaluation, whatever is behind its ports."""

import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from service.errors import ConfigError, EngineError
from service.evaluation.targets import Ranking, Reply
from service.pipeline import Pipeline, Retrieved
from service.settings import Settings
from service.types import Answer, Passage, Query

NEVER_S: Final = 1e9


@dataclass(frozen=True, slots=True)
class PipelineTarget:
    """The pipeline as the target of an evaluation."""

    pipeline: Pipeline
    settings: Settings
    checkpoint: str

    async def retrieve(self, question: str, top_n: int) -> tuple[str, ...]:
        return tuple(found.id for found in await self._find(question, top_n))

    async def rank(self, question: str, passages: Sequence[Passage]) -> Ranking:
        begun_s = time.monotonic()
        scored = await self.pipeline.scorer.score(question, passages, deadline_s=NEVER_S, use_cache=False)
        relevances = tuple(score.relevance for score in scored.scores if score is not None)
        if len(relevances) != len(passages):
            raise EngineError("a passage was left without a score")
        seconds = time.monotonic() - begun_s
        return Ranking(tuple(passage.id for passage in passages), relevances, seconds, scored.usage.prompt_tokens)

    async def retrieve_and_rank(self, question: str, top_n: int) -> Ranking:
        return await self.rank(question, await self._find(question, top_n))

    async def answer(
        self, question: str, passages: Sequence[Passage] | None, *, top_n: int | None, top_k: int | None
    ) -> Reply:
        settings, begun_s = self.settings, time.monotonic()
        query = Query(
            question, top_n=top_n or settings.top_n, top_k=top_k or settings.top_k, max_tokens=settings.max_tokens,
            deadline_s=NEVER_S, use_cache=False, min_relevance=settings.min_relevance,
            passages=None if passages is None else tuple(passages),
        )  # fmt: skip
        retrieved: tuple[str, ...] = ()
        async with aclosing(await self.pipeline.begin(query)) as events:
            async for event in events:
                if isinstance(event, Retrieved):
                    retrieved = tuple(found.passage.id for found in event.passages)
                if isinstance(event, Answer):
                    return _reply(retrieved, event, time.monotonic() - begun_s)
        raise EngineError("the pipeline gave no answer")

    async def _find(self, question: str, top_n: int) -> list[Passage]:
        if self.pipeline.retriever is None:
            raise ConfigError("there is no index: give --index, or rows with candidates", field="index")
        return [found.passage for found in await self.pipeline.retriever.find(question, top_n)]


def _reply(retrieved: tuple[str, ...], answer: Answer, seconds: float) -> Reply:
    return Reply(
        text=answer.text,
        is_abstention=answer.abstained,
        retrieved=retrieved,
        kept=tuple(scored.passage.id for scored in answer.passages),
        num_pairs=answer.usage.pairs_scored,
        num_tokens=answer.usage.prompt_tokens,
        seconds=seconds,
    )
