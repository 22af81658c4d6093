"""The demo checkpoint's tokenizer: a byte-level BPE, trained on the texts that the model trains on."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from service.core.prompts import PromptSet

BOS, EOS, PAD = "<s>", "</s>", "<pad>"

# A line break is always a token of its own, so a prompt's segments tokenise apart as they do together, and so is each
# punctuation mark: where an answer ends, a token ends.
_WORDS = Regex(r"\n| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]|\s")


def train_tokenizer(texts: Iterable[str], prompts: PromptSet, *, vocab_size: int) -> Tokenizer:
    """Train on `texts`; the prompts' own words and both labels are seen often enough to be whole tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_with_prompts(texts, prompts), trainer)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos)]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write the files that transformers and vLLM read."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD)  # type: ignore[no-untyped-call]
    fast.save_pretrained(directory)


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that the tokenizer is known to have."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no token {token!r}")
    return int(found)


def _with_prompts(texts: Iterable[str], prompts: PromptSet) -> Iterable[str]:
    answer_prompt = prompts.answer_prompt("?", ["."] * 5).text
    score_prompt = prompts.score_prompt("?", ".").text
    for text in texts:
        yield text
        yield answer_prompt + " " + prompts.abstention
        yield score_prompt + prompts.label_true
        yield score_prompt + prompts.label_false
