"""The demo model: a small Llama."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def make_config(*, vocab_size: int, pad: int, bos: int, eos: int, hidden: int, layers: int, heads: int,
                intermediate: int, max_length: int, rope_theta: float) -> LlamaConfig:  # fmt: skip
    """A Llama configuration with tied embeddings, so that finding a word and saying it share one table."""
    return LlamaConfig(
        vocab_size=vocab_size, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, intermediate_size=intermediate, max_position_embeddings=max_length,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta}, tie_word_embeddings=True,
        pad_token_id=pad, bos_token_id=bos, eos_token_id=eos, initializer_range=0.02,
    )  # fmt: skip


def make_model(config: LlamaConfig, *, seed: int) -> LlamaForCausalLM:
    """A fresh model in float32."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)
