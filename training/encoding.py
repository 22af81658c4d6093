"""Examples as token ids, made by the service's own tokenizer code: what is learnt is what will be asked.

The ids and the mask are what trl makes of its prompt-completion format (`input_ids`, `completion_mask`), but for two
things that only the service's code does: passages that are too long lose their ends, never the question or the answer,
and special tokens written in a text stay text.
"""

from typing import TypedDict

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from service.adapters.tokenizer import PromptTokenizer
from service.core.prompts import PromptSet
from service.errors import ConfigError, RequestError
from training.examples import Example


class Encoded(TypedDict):
    """`completion_mask` is 1 on the answer and the end of sequence after it; the loss is there and nowhere else."""

    input_ids: list[int]
    completion_mask: list[int]
    family: str


class ExampleEncoder:
    def __init__(self, tokenizer: PreTrainedTokenizerFast, prompts: PromptSet, max_length: int) -> None:
        if tokenizer.eos_token_id is None:
            raise ConfigError("the tokenizer has no end-of-sequence token: answers could not end", field="model.path")
        copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())  # the other keeps its own settings
        self._decode = copy.decode
        self._tokenizer = PromptTokenizer(copy, prompts)
        self._tokenizer.labels()  # refuses a checkpoint whose labels are not single tokens
        self._eos = int(tokenizer.eos_token_id)
        self._max_length = max_length

    @property
    def tokenizer(self) -> PromptTokenizer:
        return self._tokenizer

    def decode(self, ids: list[int]) -> str:
        """The text of an answer, without special tokens."""
        return str(self._decode(ids))

    def prompt_ids(self, example: Example, *, room: int) -> list[int]:
        """The prompt alone, with `room` tokens left for what follows. Raises RequestError where it can't fit."""
        return list(self._tokenizer.fit(example.passages, example.prompt, self._max_length - room).ids)

    def encode(self, example: Example) -> Encoded | None:
        """None where question and answer alone are longer than `max_length`."""
        completion = [*self._completion_ids(example), self._eos]
        try:
            prompt = self.prompt_ids(example, room=len(completion))
        except RequestError:
            return None
        mask = [0] * len(prompt) + [1] * len(completion)
        return Encoded(input_ids=prompt + completion, completion_mask=mask, family=example.family)

    def _completion_ids(self, example: Example) -> list[int]:
        """As they follow the prompt's last line ("Assistant:"), so that no token spans both."""
        last_line = example.prompt(example.passages).turn.rsplit("\n", 1)[-1]
        before, whole = self._tokenizer.encode(last_line), self._tokenizer.encode(last_line + example.completion)
        if whole[: len(before)] != before:
            raise ConfigError(f"this tokenizer joins the end of the prompt with the answer {example.completion!r:.40}")
        return whole[len(before) :]
