"""Models and tokenizers: the configured ones, or tiny random ones of the same class."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from service.errors import ConfigError
from training.config import Lora, Model

BOS, EOS, PAD = "<s>", "</s>", "<pad>"


def load_tokenizer(path: str, revision: str | None = None, *, local: bool = False) -> PreTrainedTokenizerFast:
    """Raises ConfigError where it can't be had, or is not a fast one (the service needs `tokenizer.json`)."""
    try:
        found = AutoTokenizer.from_pretrained(path, revision=revision, local_files_only=local)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"the tokenizer of {path!r} can't be had: {exc}", field="model.path") from exc
    if not isinstance(found, PreTrainedTokenizerFast):
        raise ConfigError(f"the tokenizer of {path!r} is not a fast one", field="model.path")
    return found


def load_model(path: str, model: Model) -> PreTrainedModel:
    try:
        return load_weights(path, dtype=getattr(torch, model.weights), revision=model.revision)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"the model {path!r} can't be had: {exc}", field="model.path") from exc


def load_weights(path: str, *, dtype: torch.dtype, revision: str | None = None) -> PreTrainedModel:
    found: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, revision=revision)
    return found


def is_local(path: str) -> bool:
    """Whether a model directory with a tokenizer is on disk."""
    return (Path(path) / "tokenizer.json").is_file()


def pad_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """What fills batches up; any token does, since it is neither seen nor learnt."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def lora_config(lora: Lora) -> LoraConfig:
    return LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )  # fmt: skip


def tiny_model(model: Model, tokenizer: PreTrainedTokenizerFast, *, max_length: int, seed: int) -> PreTrainedModel:
    """A random model of the configured class: hidden size 64, two layers, the tokenizer's vocabulary."""
    torch.manual_seed(seed)
    config = tiny_config(model, tokenizer, max_length)
    found: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    return found


def tiny_config(model: Model, tokenizer: PreTrainedTokenizerFast, max_length: int) -> PretrainedConfig:
    """Raises ConfigError where transformers has no such architecture."""
    shape: dict[str, Any] = {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
        "intermediate_size": 128, "vocab_size": len(tokenizer), "max_position_embeddings": max(max_length, 2048),
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    try:
        return AutoConfig.for_model(model.type, **shape)
    except ValueError as exc:
        raise ConfigError(f"transformers has no architecture {model.type!r}", field="model.type") from exc


def small_tokenizer(texts: Iterable[str], *, vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on `texts`; " True" and " False" are tokens, whatever the texts hold."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD, BOS, EOS], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator((text + ": True: False" for text in texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD)  # type: ignore[no-untyped-call]
