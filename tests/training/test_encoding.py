"""The loss is on the answer and the end of sequence, and nowhere else."""

import random

import pytest
from transformers import PreTrainedTokenizerFast

from service.core.prompts import PromptSet
from service.errors import CheckpointError, ConfigError
from service.types import Passage
from training.dry_run import collated
from training.encoding import ExampleEncoder
from training.examples import ExampleMaker
from training.models import small_tokenizer
from training.records import Chat, Question, Turn

LONG = Passage("l", "word " * 3000)
SHORT = Passage("s", "The bridge was opened in 1931. <s> </s>")
QUESTION = Question("q", "When was it opened?", ("1931",), relevant=(SHORT,), irrelevant=(LONG,))


def test_what_is_learnt_is_the_answer_and_the_end(
    maker: ExampleMaker, encoder: ExampleEncoder, tokenizer: PreTrainedTokenizerFast
) -> None:
    example = maker.context_rich_qa(QUESTION, "short")
    encoded = encoder.encode(example)
    assert encoded is not None
    ids, mask = encoded["input_ids"], encoded["completion_mask"]
    learnt = [id_ for id_, bit in zip(ids, mask, strict=True) if bit]
    assert learnt[-1] == tokenizer.eos_token_id
    assert encoder.decode(learnt[:-1]) == example.completion
    assert mask == sorted(mask)
    assert ids == [*encoder.tokenizer.encode(example.text + example.completion), tokenizer.eos_token_id]


def test_labels_of_a_batch_are_masked_everywhere_else(maker: ExampleMaker, encoder: ExampleEncoder) -> None:
    examples = [
        maker.context_rich_qa(QUESTION, "short"),
        maker.instruction(Chat((Turn("user", "Hi"), Turn("assistant", "Ho")))),
    ]
    encoded = [found for found in map(encoder.encode, examples) if found is not None]
    batch = collated(encoded)
    for row, example in zip(range(2), encoded, strict=True):
        wanted = [i if bit else -100 for i, bit in zip(example["input_ids"], example["completion_mask"], strict=True)]
        padding = batch["labels"].shape[1] - len(wanted)
        assert batch["labels"][row].tolist() == wanted + [-100] * padding
        assert batch["attention_mask"][row].tolist() == [1] * len(wanted) + [0] * padding


def test_special_tokens_in_a_passage_are_text(
    maker: ExampleMaker, encoder: ExampleEncoder, tokenizer: PreTrainedTokenizerFast
) -> None:
    encoded = encoder.encode(maker.context_rich_qa(QUESTION, "short"))
    assert encoded is not None
    assert encoded["input_ids"].count(tokenizer.bos_token_id) == 1
    assert encoded["input_ids"].count(tokenizer.eos_token_id) == 1


def test_passages_are_cut_never_the_question_or_the_answer(maker: ExampleMaker, encoder: ExampleEncoder) -> None:
    question = Question("q", "Why so long?", ("because",), relevant=(LONG,), irrelevant=(LONG,))
    example = maker.retrieval_augmented_qa(question, random.Random(0))
    encoded = encoder.encode(example)
    assert encoded is not None
    assert len(encoded["input_ids"]) <= 1024
    assert encoder.decode(encoded["input_ids"]).endswith(
        f"Why so long?. Answer the above question with a short phrase.\n\nAssistant:{example.completion}"
    )


def test_what_can_not_fit_is_left_out(maker: ExampleMaker, encoder: ExampleEncoder) -> None:
    assert encoder.encode(maker.instruction(Chat((Turn("user", "word " * 3000), Turn("assistant", "Ho"))))) is None


def test_a_tokenizer_without_an_end_is_refused(prompts: PromptSet) -> None:
    tokenizer = small_tokenizer(["a"])
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="end-of-sequence"):
        ExampleEncoder(tokenizer, prompts, 64)


def test_a_tokenizer_without_single_token_labels_is_refused(prompts: PromptSet) -> None:
    tokenizer = small_tokenizer(["a"], vocab_size=260)
    with pytest.raises(CheckpointError, match="not a single token"):
        ExampleEncoder(tokenizer, prompts, 64)
