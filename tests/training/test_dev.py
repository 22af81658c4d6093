"""Dev figures are those of the model, whatever the padding and the order of the candidates."""

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from training import readers, toy
from training.config import Dev, Model
from training.dev import DevSet, Measure, last_logits, open_dev, reciprocal_rank
from training.encoding import ExampleEncoder
from training.examples import ExampleMaker
from training.models import tiny_model


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    return tiny_model(Model(path="none"), tokenizer, max_length=1024, seed=1)


@pytest.fixture(scope="module")
def dev(data: Path, maker: ExampleMaker, encoder: ExampleEncoder) -> DevSet:
    source = toy.sources()["candidates"]
    return open_dev(readers.read(source, data), Dev(source=source, questions=4, candidates=5), maker, encoder, seed=7)


@pytest.mark.parametrize(
    ("scores", "labels", "value"),
    [([0.9, 0.1], [True, False], 1.0), ([0.1, 0.9], [True, False], 0.5), ([0.5, 0.5, 0.5], [True, False, False], 1 / 3),
     ([0.3], [False], 0.0)],
)  # fmt: skip
def test_reciprocal_rank(scores: list[float], labels: list[bool], value: float) -> None:
    assert reciprocal_rank(scores, labels) == pytest.approx(value)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1), st.randoms(use_true_random=False))
def test_reciprocal_rank_does_not_depend_on_the_order_given(
    pairs: list[tuple[float, bool]], rng: random.Random
) -> None:
    other = pairs.copy()
    rng.shuffle(other)
    value = reciprocal_rank([score for score, _ in pairs], [label for _, label in pairs])
    assert reciprocal_rank([score for score, _ in other], [label for _, label in other]) == value


def test_a_ranking_has_one_relevant_passage_among_its_candidates(dev: DevSet) -> None:
    assert len(dev.rankings) == len(dev.readings) == 4
    for ranking in dev.rankings:
        assert (len(ranking.prompts), sum(ranking.labels)) == (5, 1)
    assert len({ranking.labels.index(True) for ranking in dev.rankings}) > 1


def test_padding_moves_no_logit(model: PreTrainedModel, dev: DevSet) -> None:
    prompts = [dev.rankings[0].prompts[0], dev.readings[0].prompt]
    with torch.inference_mode():
        together = last_logits(model, prompts, 0)
        alone = torch.cat([last_logits(model, [prompt], 0) for prompt in prompts])
    assert torch.allclose(together, alone, atol=1e-4)


def test_all_figures_are_shares_and_the_same_every_time(
    model: PreTrainedModel, dev: DevSet, encoder: ExampleEncoder, tokenizer: PreTrainedTokenizerFast
) -> None:
    measure = Measure(dev, encoder, pad=int(tokenizer.pad_token_id), eos=int(tokenizer.eos_token_id))
    figures = measure(model)
    assert set(figures) == {"dev_mrr", "dev_accuracy", "dev_label_mass", "dev_exact"}
    assert all(0.0 <= value <= 1.0 for value in figures.values())
    assert measure(model) == figures
