"""A checkpoint in this process, by transformers in place of vLLM, behind the ports of the pipeline."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from service.adapters.answer_cache import CachedAnswers
from service.adapters.calibration_file import read_calibration
from service.adapters.prompt_files import read_prompts
from service.adapters.tokenizer import (
    EncodedPrompt,
    PromptTokenizer,
    checkpoint_directory,
    checkpoint_revision,
    open_tokenizer,
)
from service.core.cache_keys import CacheKeys
from service.core.scoring import Calibration, score_from_logprobs
from service.evaluation.causal_lm import CausalLM, Stops, cut_at
from service.evaluation.local_index import no_cache, open_local_index
from service.evaluation.pipeline_target import PipelineTarget
from service.pipeline import Pipeline
from service.ports import Piece, Rewritten, Scores
from service.settings import Settings
from service.types import Passage, Priority, Score, Turn, Usage


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """A loaded checkpoint with its tokenizer; one forward pass at a time."""

    model: CausalLM
    tokenizer: PromptTokenizer
    text: Tokenizer
    calibration: Calibration
    turn: asyncio.Lock


class LocalScorer:
    """The Scorer port. Everything is admitted, and there is no deadline."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._labels = engine.tokenizer.labels()

    def admit(self, num_pairs: int, *, deadline_s: float, priority: Priority) -> None:
        return

    async def score(
        self, question: str, passages: Sequence[Passage], *, deadline_s: float, use_cache: bool,
        priority: Priority = Priority.INTERACTIVE, top_k: int | None = None, allow_partial: bool = False,
    ) -> Scores:  # fmt: skip
        async with self._engine.turn:
            return await asyncio.to_thread(self._score, question, passages)

    def _score(self, question: str, passages: Sequence[Passage]) -> Scores:
        engine = self._engine
        limit = engine.model.max_model_len - 1
        prompts = [prompt.ids for prompt in engine.tokenizer.score_prompts(question, passages, max_tokens=limit)]
        found = engine.model.label_logprobs(prompts, self._labels)
        scores: list[Score] = [score_from_logprobs(true, false, engine.calibration) for true, false in found]
        num_tokens = sum(map(len, prompts))
        return Scores(tuple(scores), Usage(num_tokens, completion_tokens=len(scores), pairs_scored=len(scores)))


class LocalGenerator:
    """The Generator port; the answer comes in one piece."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine

    async def generate(
        self, question: str, passages: Sequence[Passage], *, max_tokens: int, deadline_s: float
    ) -> AsyncGenerator[Piece, None]:
        texts = [(passage.title, passage.text) for passage in passages]
        prompt = self._engine.tokenizer.answer_prompt(question, texts, max_tokens=self._room(max_tokens))
        async with self._engine.turn:
            yield await asyncio.to_thread(self._complete, prompt, max_tokens)

    async def rewrite(self, question: str, history: Sequence[Turn], *, max_tokens: int, deadline_s: float) -> Rewritten:
        prompt = self._engine.tokenizer.rewrite_prompt(question, history, max_tokens=self._room(max_tokens))
        async with self._engine.turn:
            piece = await asyncio.to_thread(self._complete, prompt, max_tokens)
        return Rewritten(piece.text, piece.usage or Usage())

    def _room(self, max_tokens: int) -> int:
        return max(self._engine.model.max_model_len - max_tokens, 1)

    def _complete(self, prompt: EncodedPrompt, max_tokens: int) -> Piece:
        engine = self._engine
        ends = engine.tokenizer.prompts.stop
        ids = engine.model.complete(prompt.ids, max_tokens=max_tokens, stops=Stops(ends, engine.text.decode))
        text = cut_at(engine.text.decode(ids), ends)
        return Piece(text, Usage(len(prompt.ids), len(ids)), is_context_cut=prompt.is_cut)


def open_in_process(settings: Settings, index: Path | None) -> PipelineTarget:
    """Load the checkpoint of `settings`, and the index if there is one.

    Raises:
        ConfigError, CheckpointError: says what is wrong with which file.
    """
    prompt_file = read_prompts(settings.prompts)
    directory = checkpoint_directory(settings.checkpoint, settings.checkpoint_revision)
    text = open_tokenizer(directory)
    tokenizer = PromptTokenizer(open_tokenizer(directory), prompt_file.prompts)
    local = open_local_index(index, tokenizer.fingerprint) if index else None
    model = CausalLM(settings.checkpoint, settings.checkpoint_revision)
    engine = LocalEngine(model, tokenizer, text, read_calibration(directory), asyncio.Lock())
    keys = CacheKeys(checkpoint=checkpoint_revision(directory), prompts=prompt_file.digest, index="", encoder="")
    pipeline = Pipeline(
        retriever=local.retriever if local else None, scorer=LocalScorer(engine), generator=LocalGenerator(engine),
        answers=CachedAnswers(no_cache(), keys), prompts=prompt_file.prompts, clock=time.monotonic,
    )  # fmt: skip
    return PipelineTarget(pipeline, settings, f"{settings.checkpoint} at {checkpoint_revision(directory)}")
