"""Checkpoints by transformers: tiny ones of two architectures, with random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from service.adapters.tokenizer import Labels
from service.errors import CheckpointError
from service.evaluation.causal_lm import CausalLM, Stops, cut_at

VOCABULARY = 50
LABELS = Labels(7, 8)
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [11], [12, 13, 14]]


@pytest.fixture(scope="module", params=["llama", "opt"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    small: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    path = tmp_path_factory.mktemp(str(request.param))
    if request.param == "llama":
        config = LlamaConfig(**small, intermediate_size=32, max_position_embeddings=64)
        LlamaForCausalLM(config).save_pretrained(path)
    else:
        OPTForCausalLM(
            OPTConfig(**small, ffn_dim=32, max_position_embeddings=64, word_embed_proj_dim=16)
        ).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(directory: Path) -> CausalLM:
    return CausalLM(directory, device="cpu")


def test_scores_do_not_depend_on_who_is_in_the_batch(model: CausalLM) -> None:
    together = model.label_logprobs(PROMPTS, LABELS)
    alone = [model.label_logprobs([prompt], LABELS)[0] for prompt in PROMPTS]
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_logprobs_are_of_the_whole_vocabulary(model: CausalLM) -> None:
    pairs = [Labels(token, token) for token in range(VOCABULARY)]
    total = sum(torch.tensor(model.label_logprobs([PROMPTS[0]], pair)[0][0]).exp().item() for pair in pairs)
    assert total == pytest.approx(1.0, abs=1e-4)


def test_completion_is_the_most_probable_one(model: CausalLM) -> None:
    found = model.complete(PROMPTS[1], max_tokens=3, stops=Stops((), str))
    prompt = list(PROMPTS[1])
    for token in found:
        logprobs = [model.label_logprobs([prompt], Labels(other, other))[0][0] for other in range(VOCABULARY)]
        assert logprobs[token] == pytest.approx(max(logprobs), abs=1e-5)
        prompt.append(token)
    assert 1 <= len(found) <= 3


def test_completion_ends_at_a_stop(model: CausalLM) -> None:
    whole = model.complete(PROMPTS[1], max_tokens=8, stops=Stops((), str))
    stops = Stops(("x",), lambda ids: "x" if len(ids) >= 2 else "")
    assert model.complete(PROMPTS[1], max_tokens=8, stops=stops) == whole[:2]


def test_context_is_as_long_as_the_checkpoint_says(model: CausalLM) -> None:
    assert model.max_model_len == 64


def test_directory_that_is_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="transformers can load"):
        CausalLM(tmp_path)


@pytest.mark.parametrize(("text", "expected"), [("a\nb", "a"), ("a", "a"), ("\n", ""), ("a stop b\nc", "a "), ("", "")])
def test_text_is_cut_at_the_first_stop(text: str, expected: str) -> None:
    assert cut_at(text, ["\n", "stop"]) == expected
