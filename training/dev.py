"""What is measured while training: ranking among candidates, and answers from five passages."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from service.core.scoring import score_from_logprobs
from service.evaluation.squad import exact_match
from service.types import Passage, Score
from training.config import Dev
from training.encoding import Encoded, ExampleEncoder
from training.examples import Example, ExampleMaker, is_usable
from training.records import Question, Rows, distinct

_BATCH = 8
_MAX_NEW_TOKENS = 32  # as the paper generates short answers, section 5.1
_RIGHT_ABOVE = 0.5


@dataclass(frozen=True, slots=True)
class Ranking:
    """One question's candidates as prompts, in an order that says nothing; `labels` tell which are relevant."""

    prompts: tuple[list[int], ...]
    labels: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    prompt: list[int]
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DevSet:
    """Held-out rows, encoded once. `examples` are for the loss."""

    rankings: Sequence[Ranking]
    readings: Sequence[Reading]
    examples: Sequence[Encoded]


def open_dev(rows: Rows, dev: Dev, maker: ExampleMaker, encoder: ExampleEncoder, seed: int) -> DevSet:
    rng = random.Random(f"{seed}/dev")
    fillers = rows.corpus or distinct(p for q in rows.questions for p in (*q.irrelevant, *q.relevant))
    ranked = _sample([q for q in rows.questions if is_usable("context_ranking", q)], dev.questions, rng)
    read = [q for q in rows.questions if q.is_answerable and is_usable("retrieval_augmented_qa", q)]
    made = [(q, maker.retrieval_augmented_qa(q, rng, fillers)) for q in _sample(read, dev.questions, rng)]
    examples = [*(maker.context_ranking(question, rng) for question in ranked), *(example for _, example in made)]
    return DevSet(
        rankings=[_ranking(question, dev.candidates, maker, encoder, rng) for question in ranked],
        readings=[_reading(question, example, encoder) for question, example in made],
        examples=[encoded for encoded in map(encoder.encode, examples) if encoded is not None],
    )


def _sample(questions: Sequence[Question], count: int, rng: random.Random) -> list[Question]:
    return rng.sample(questions, min(count, len(questions)))


def _ranking(
    question: Question, count: int, maker: ExampleMaker, encoder: ExampleEncoder, rng: random.Random
) -> Ranking:
    relevant = question.relevant[: count - 1]
    candidates = [*relevant, *question.irrelevant[: count - len(relevant)]]
    rng.shuffle(candidates)
    prompts = [_pair(question, passage, maker) for passage in candidates]
    return Ranking(
        tuple(encoder.prompt_ids(prompt, room=1) for prompt in prompts),
        tuple(passage in relevant for passage in candidates),
    )


def _pair(question: Question, passage: Passage, maker: ExampleMaker) -> Example:
    only = Question(question.id, question.text, relevant=(passage,), irrelevant=(passage,), history=question.history)
    return maker.context_ranking(only, random.Random(0))


def _reading(question: Question, example: Example, encoder: ExampleEncoder) -> Reading:
    return Reading(encoder.prompt_ids(example, room=_MAX_NEW_TOKENS), question.answers)


@dataclass(frozen=True, slots=True)
class Measure:
    """Measures a model on a dev set: the same figures on every process of a distributed run."""

    dev: DevSet
    encoder: ExampleEncoder
    pad: int
    eos: int

    @torch.inference_mode()
    def __call__(self, model: PreTrainedModel) -> dict[str, float]:
        """`dev_mrr` and `dev_accuracy` of single pairs, `dev_label_mass`, `dev_exact` (share of exact answers)."""
        scores = iter(self._scores(model, [prompt for each in self.dev.rankings for prompt in each.prompts]))
        ranked = [(each, [next(scores) for _ in each.prompts]) for each in self.dev.rankings]
        pairs = [(s, label) for each, found in ranked for s, label in zip(found, each.labels, strict=True)]
        answers = self._answers(model, [reading.prompt for reading in self.dev.readings])
        exact = [exact_match(a, reading.answers) for a, reading in zip(answers, self.dev.readings, strict=True)]
        return {
            "dev_mrr": _mean([reciprocal_rank([s.relevance for s in found], each.labels) for each, found in ranked]),
            "dev_accuracy": _mean([(s.relevance > _RIGHT_ABOVE) == label for s, label in pairs]),
            "dev_label_mass": _mean([s.label_mass for s, _ in pairs]),
            "dev_exact": _mean(exact),
        }

    def _scores(self, model: PreTrainedModel, prompts: Sequence[list[int]]) -> list[Score]:
        labels = self.encoder.tokenizer.labels()
        scores: list[Score] = []
        for batch in _batches(prompts):
            logits = last_logits(model, batch, self.pad).log_softmax(-1)
            for true, false in logits[:, [labels.true, labels.false]].tolist():
                scores.append(score_from_logprobs(true, false))
        return scores

    def _answers(self, model: Any, prompts: Sequence[list[int]]) -> list[str]:
        answers = []
        for batch in _batches(prompts):
            ids, mask = left_padded(batch, self.pad, model.device)
            made = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=_MAX_NEW_TOKENS, do_sample=False,
                pad_token_id=self.pad, eos_token_id=self.eos,
            )  # fmt: skip
            answers += [self._text(row) for row in made[:, ids.shape[1] :].tolist()]
        return answers

    def _text(self, ids: list[int]) -> str:
        """Up to the end of sequence or the first stop text, as the service cuts it."""
        text = self.encoder.decode(ids[: ids.index(self.eos)] if self.eos in ids else ids)
        for stop in self.encoder.tokenizer.prompts.stop:
            text = text.partition(stop)[0]
        return text


def reciprocal_rank(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """1 / rank of the first relevant one; of equal scores the irrelevant ones come first."""
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], labels[index]))
    return next((1 / rank for rank, index in enumerate(order, start=1) if labels[index]), 0.0)


def last_logits(model: Any, prompts: Sequence[list[int]], pad: int) -> Tensor:
    """(num_prompts, vocabulary) float32 logits of the token after each prompt."""
    ids, mask = left_padded(prompts, pad, model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    made = model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1, use_cache=False)
    logits: Tensor = made.logits[:, -1].float()
    return logits


def left_padded(prompts: Sequence[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both (num_prompts, longest) int64."""
    longest = max(map(len, prompts))
    ids = [[pad] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _batches(prompts: Sequence[list[int]]) -> Iterator[Sequence[list[int]]]:
    return (prompts[start : start + _BATCH] for start in range(0, len(prompts), _BATCH))


def _mean(values: Sequence[float]) -> float:
    return float(fmean(values)) if values else 0.0
