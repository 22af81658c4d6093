"""A checkpoint in this process, by transformers and in float32; the only module that imports the library."""

from collections.abc import Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList
from transformers.utils import logging as transformers_logging

from service.adapters.tokenizer import Labels
from service.errors import CheckpointError
from service.evaluation.batches import by_length

MAX_BATCH_TOKENS: Final = 8192


class CausalLM:
    """Log-probabilities after prompts, and greedy continuations. Not for several threads at once.

    `checkpoint` is a directory or a Hugging Face id, whose weights are downloaded on first use.
    """

    def __init__(self, checkpoint: str | Path, revision: str | None = None, *, device: str | None = None) -> None:
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model = _load(str(checkpoint), revision).to(self._device).eval()
        self._keeps_logits = "logits_to_keep" in signature(self._model.forward).parameters

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together."""
        return int(self._model.config.max_position_embeddings)

    def label_logprobs(self, prompts: Sequence[Sequence[int]], labels: Labels) -> list[tuple[float, float]]:
        """(log P(True), log P(False)) as the next token after each prompt, over the whole vocabulary."""
        found: list[tuple[float, float]] = [(0.0, 0.0)] * len(prompts)
        for batch in by_length([len(prompt) for prompt in prompts], MAX_BATCH_TOKENS):
            logprobs = self._next_logprobs([prompts[index] for index in batch])
            for index, row in zip(batch, logprobs[:, [labels.true, labels.false]].tolist(), strict=True):
                found[index] = (row[0], row[1])
        return found

    @torch.inference_mode()
    def _next_logprobs(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """(num_prompts, vocabulary) float32.

        Padded on the right: no real token looks at padding, and positions count from the prompt's first token.
        """
        lengths = [len(prompt) for prompt in prompts]
        width = max(lengths)
        ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=self._device)
        mask = torch.arange(width, device=self._device) < torch.tensor(lengths, device=self._device)[:, None]
        last = torch.tensor(lengths, device=self._device) - 1
        kept, places = torch.unique(last, return_inverse=True)
        if not self._keeps_logits:
            kept, places = torch.arange(width, device=self._device), last
        extra = {"logits_to_keep": kept} if self._keeps_logits else {}
        logits = self._model(input_ids=ids, attention_mask=mask.long(), use_cache=False, **extra).logits
        rows = torch.arange(len(prompts), device=self._device)
        return torch.log_softmax(logits[rows, places].float(), dim=-1)

    @torch.inference_mode()
    def complete(self, prompt: Sequence[int], *, max_tokens: int, stops: "Stops") -> list[int]:
        """The most probable continuation, up to `max_tokens`, an end token or where `stops` says."""
        ids = torch.tensor([list(prompt)], device=self._device)
        stops.start = len(prompt)
        found = self._model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False, num_beams=1,
            temperature=None, top_p=None, top_k=None, pad_token_id=0, stopping_criteria=StoppingCriteriaList([stops]),
        )  # fmt: skip
        return [int(token) for token in found[0, len(prompt) :]]


class Stops(StoppingCriteria):
    """Ends a completion once its text holds one of `texts`; `decode` gives the text of token ids."""

    def __init__(self, texts: Sequence[str], decode: Any) -> None:
        self._texts = tuple(texts)
        self._decode = decode
        self.start = 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        del scores
        done = [any(stop in self._decode(row[self.start :].tolist()) for stop in self._texts) for row in input_ids]
        return torch.tensor(done, device=input_ids.device)


def _load(checkpoint: str, revision: str | None) -> Any:
    try:
        return AutoModelForCausalLM.from_pretrained(checkpoint, revision=revision or "main", dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as exc:
        raise CheckpointError(f"{checkpoint} is no causal language model that transformers can load: {exc}") from exc


def cut_at(text: str, stops: Sequence[str]) -> str:
    """What stands before the first of `stops`."""
    ends: Iterator[int] = (text.index(stop) for stop in stops if stop in text)
    return text[: min(ends, default=len(text))]
