"""A decoder that begins as the retrieval encoder: the same numbers where both can do the same."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import BertModel, OPTForCausalLM

from service.adapters.encoder import EncoderConfig, model_directory
from training.demo.packing import BIND, FOLLOW, LEAD
from training.demo.tokenizer import train_tokenizer
from training.demo.train import load_prompts
from training.demo.warm_start import BINDING_LAYER, Pointing, make_model

CORPUS = Path(__file__).parents[3] / "demo" / "corpus.jsonl"
TEXTS = [f" {json.loads(line)['text']}" for line in CORPUS.read_text(encoding="utf-8").splitlines()[:400]]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, load_prompts("rankrag-v1"), vocab_size=4096)


@pytest.fixture(scope="module")
def encoder() -> Any:
    return BertModel.from_pretrained(model_directory(EncoderConfig().model, None), add_pooling_layer=False)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> OPTForCausalLM:
    return make_model(tokenizer, TEXTS[:20], max_length=1024, seed=1)


@torch.no_grad()
def test_the_first_layer_normalises_the_embeddings_as_the_encoder_does(model: OPTForCausalLM, encoder: Any) -> None:
    summed = torch.randn(1, 5, 384)
    made = model.model.decoder.layers[0](summed)
    made = made[0] if isinstance(made, tuple) else made
    torch.testing.assert_close(made, encoder.embeddings.LayerNorm(summed), atol=1e-3, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("number", range(6))
def test_each_layer_of_the_encoder_does_what_it_did(model: OPTForCausalLM, encoder: Any, number: int) -> None:
    """Of one token, which has nothing to its right that a decoder could not see."""
    states = encoder.embeddings.LayerNorm(torch.randn(3, 1, 384))
    made, wanted = model.model.decoder.layers[number + 1](states), encoder.encoder.layer[number](states)
    made, wanted = (part[0] if isinstance(part, tuple) else part for part in (made, wanted))
    torch.testing.assert_close(made, wanted, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_tokens_of_one_meaning_begin_as_neighbours(model: OPTForCausalLM, tokenizer: Tokenizer) -> None:
    vectors = torch.nn.functional.normalize(model.model.decoder.embed_tokens.weight, dim=1)

    def likeness(one: str, other: str) -> float:
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in (one, other)]
        assert [len(found) for found in ids] == [1, 1]
        return float(vectors[ids[0][0]] @ vectors[ids[1][0]])

    assert likeness(" question", " questions") > likeness(" question", " river") + 0.2
    assert likeness(" the", " The") > likeness(" the", " river") + 0.2


@torch.no_grad()
def test_embeddings_are_of_one_length(model: OPTForCausalLM) -> None:
    lengths = model.model.decoder.embed_tokens.weight.norm(dim=1)
    assert float(lengths.std() / lengths.mean()) < 1e-4


@torch.no_grad()
def test_what_is_looked_at_is_what_would_be_said(model: OPTForCausalLM, tokenizer: Tokenizer) -> None:
    """The copying layer's map names the token that it gets far more often than chance (1 of 4,096) would."""
    pointing = Pointing(model)
    ids = torch.tensor([tokenizer.encode(TEXTS[30]).ids])
    model.model(input_ids=ids)
    rows, columns = torch.zeros(ids.shape[1] - 1, dtype=torch.long), torch.arange(1, ids.shape[1])
    said = model.lm_head(pointing.said(rows, columns)).argmax(dim=1)
    assert float((said == ids[0, 1:]).float().mean()) > 0.3


@torch.no_grad()
def test_pointing_is_minus_the_log_of_what_the_heads_pay_to_the_spots(
    model: OPTForCausalLM, tokenizer: Tokenizer
) -> None:  # fmt: skip
    pointing = Pointing(model)
    ids = torch.tensor([tokenizer.encode(TEXTS[0]).ids])
    length = ids.shape[1]
    mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    states: Any = model.model(
        input_ids=ids, attention_mask=mask, position_ids=torch.arange(length)[None], output_hidden_states=True
    ).hidden_states  # fmt: skip
    asked = [(length - 1, [2, 3], LEAD), (5, [0], FOLLOW), (6, [1], BIND)]
    losses, attention = pointing.losses(*laid_out(asked, length))
    layers: Any = model.model.decoder.layers
    paid = {
        token: weights(layers[at].self_attn, states[at - 1][0, : token + 1])[:, spots].sum(dim=1)
        for token, spots, role in asked
        if (at := BINDING_LAYER if role == BIND else -1)
    }
    torch.testing.assert_close(losses["point"], -paid[length - 1].log().mean())
    torch.testing.assert_close(losses["follow"], -paid[5].log().mean())
    torch.testing.assert_close(losses["bind"], -paid[6][0].log())
    assert attention == pytest.approx(float(paid[length - 1].mean()), abs=1e-5)


def weights(layer: Any, states: torch.Tensor) -> torch.Tensor:
    """(heads, length): the attention of the last of these states."""
    heads, size = layer.num_heads, layer.head_dim
    query = layer.q_proj(states[-1]).view(heads, size)
    keys = layer.k_proj(states).view(-1, heads, size)
    found: torch.Tensor = (torch.einsum("hd,lhd->hl", query, keys) * size**-0.5).softmax(dim=-1)
    return found


def laid_out(asked: Sequence[tuple[int, list[int], int]], length: int) -> tuple[torch.Tensor, ...]:
    pointing, roles = torch.full((1, 4), -1), torch.zeros(1, 4, dtype=torch.long)
    spots = torch.zeros(1, 4, length, dtype=torch.bool)
    for row, (token, wanted, role) in enumerate(asked):
        pointing[0, row], roles[0, row] = token, role
        spots[0, row, wanted] = True
    return pointing, roles, spots


def test_a_seed_makes_the_same_model_again(model: OPTForCausalLM, tokenizer: Tokenizer) -> None:
    random.seed(5)
    again = make_model(tokenizer, TEXTS[:20], max_length=1024, seed=1)
    for (name, one), other in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
