"""What a fresh model can do before its first step."""

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from training.demo.model import BINDING_HEAD, COPY_HEAD, PHRASE_HEAD, make_config, make_model, protect

SIZE = 256  # of a head: wide enough that words drawn by chance hardly look alike


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    config = make_config(
        vocab_size=512, pad=0, bos=1, eos=2, hidden=4 * SIZE, layers=4, heads=4, intermediate=64, max_length=256,
        rope_theta=1e6,
    )  # fmt: skip
    fresh = make_model(config, meanings=None, seed=3)
    fresh.set_attn_implementation("eager")
    return fresh


def looked_at(model: LlamaForCausalLM, ids: list[int], head: int) -> int:
    """The token that this head of the second layer attends to most from the last one."""
    with torch.no_grad():
        attention: Tensor = model(torch.tensor([ids]), output_attentions=True).attentions[1]
    return ids[int(attention[0, head, -1].argmax())]


def test_one_head_finds_what_followed_the_last_token(model: LlamaForCausalLM) -> None:
    ids = [1, *range(20, 60), 300, 301, *range(60, 90), 300]
    assert looked_at(model, ids, COPY_HEAD) == 301
    assert int(model(torch.tensor([ids])).logits[0, -1].argmax()) == 301


def test_another_tells_apart_what_followed_the_last_two(model: LlamaForCausalLM) -> None:
    """After "10 300" comes 301, after "11 300" 302."""
    ids = [1, *range(20, 40), 10, 300, 301, *range(40, 60), 11, 300, 302, *range(60, 80)]
    assert looked_at(model, [*ids, 10, 300], PHRASE_HEAD) == 301
    assert looked_at(model, [*ids, 11, 300], PHRASE_HEAD) == 302


def test_planted_heads_stay_while_they_are_protected(model: LlamaForCausalLM) -> None:
    is_active = True
    protect(model, lambda: is_active)
    for expected in (False, True):
        model.zero_grad()
        model(torch.tensor([[1, 5, 6, 5]])).logits[0, -1, 6].backward()
        gradient = model.model.layers[0].self_attn.v_proj.weight.grad
        assert gradient is not None
        for head in (COPY_HEAD, PHRASE_HEAD):
            assert bool(gradient[head * SIZE : (head + 1) * SIZE].any()) is expected
        is_active = False


def test_layers_start_as_the_identity_beside_the_planted_heads(model: LlamaForCausalLM) -> None:
    for layer in model.model.layers[2:]:
        assert not layer.mlp.down_proj.weight.any()
        assert not layer.self_attn.o_proj.weight[:, (BINDING_HEAD + 1) * SIZE :].any()
