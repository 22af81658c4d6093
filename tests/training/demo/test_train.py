"""The curriculum and what it goes by."""

from typing import Any

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from training.demo.examples import Stage
from training.demo.train import Curriculum, exactly_right, parts_of

STAGE: dict[str, Any] = {
    "passages": (1, 1), "max_facts": 1, "explicit": 1.0, "families": None, "near": 0.0, "split": 0.0,
    "unanswerable": 0.0, "length": 64, "short": True, "asks": 1, "weights": {"world_answer": 1.0},
}  # fmt: skip


def curriculum() -> Curriculum:
    return Curriculum([Stage(**STAGE)] * 3, exact=0.7, right=0.8, min_steps=10, max_steps=100)


def test_it_moves_on_when_both_tasks_are_learnt() -> None:
    course = curriculum()
    course.observe({"exact": 0.9, "right": 0.7})
    assert not course.advance(20)
    course.seen["right"] = 0.8
    assert course.advance(21)
    assert (course.current, course.entered_at, course.seen) == (1, 21, {})


def test_it_stays_for_the_fewest_steps_and_leaves_after_the_most() -> None:
    course = curriculum()
    course.seen = {"exact": 1.0, "right": 1.0}
    assert not course.advance(9)
    course.seen = {"exact": 0.1, "right": 0.1}
    assert not course.advance(99)
    assert course.advance(100)


def test_the_last_stage_is_never_left() -> None:
    course = curriculum()
    course.current, course.seen = 2, {"exact": 1.0, "right": 1.0}
    assert not course.advance(10_000)


def test_an_answer_is_right_when_all_of_its_tokens_are() -> None:
    is_right = torch.tensor([True, True, True, False, True])
    starts = torch.tensor([True, False, True, False, True])
    assert exactly_right(is_right, starts) == pytest.approx(2 / 3)


def test_each_parameter_has_one_rate() -> None:
    model = OPTForCausalLM(
        OPTConfig(vocab_size=64, hidden_size=16, word_embed_proj_dim=16, num_hidden_layers=4, ffn_dim=16,
                  num_attention_heads=2, max_position_embeddings=32, do_layer_norm_before=False)
    )  # fmt: skip
    parts = parts_of(model)
    layers = model.model.decoder.layers
    held = [id(parameter) for part in parts.values() for parameter in part]
    assert sorted(held) == sorted(map(id, model.parameters()))
    assert {*map(id, layers[1].parameters()), *map(id, layers[2].parameters())} == {*map(id, parts["encoder"])}
    assert {*map(id, layers[0].parameters()), *map(id, layers[3].parameters())} == {*map(id, parts["new"])}
    assert model.lm_head.weight is model.model.decoder.embed_tokens.weight is parts["embeddings"][0]
