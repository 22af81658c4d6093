"""Packed sequences train exactly the prompts that the service sends."""

import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import OPTConfig, OPTForCausalLM

from service.core.prompts import PromptSet
from training.demo.examples import Stage, TreeMaker, training_texts
from training.demo.packing import ANSWER, BIND, IGNORED, SCORE, Branch, Packer, Tree
from training.demo.tokenizer import EOS, save_tokenizer, token_id, train_tokenizer
from training.demo.train import collate, load_prompts
from training.demo.world import World

STAGE = Stage(
    passages=(1, 3),
    max_facts=4,
    explicit=0.5,
    families=None,
    near=0.5,
    unanswerable=0.5,
    length=1024,
    short=False,
    asks=1,
    split=0.5,
    weights={},
)


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    return load_prompts("rankrag-v1")


@pytest.fixture(scope="module")
def maker(prompts: PromptSet) -> TreeMaker:
    world = World.load()
    texts = training_texts(world, None, random.Random(1), num_documents=400)
    return TreeMaker(world, None, prompts, train_tokenizer(texts, prompts, vocab_size=1024))


def test_every_branch_is_predicted_as_in_a_prompt_of_its_own(maker: TreeMaker) -> None:
    rng = random.Random(2)
    trees = maker.make("world_answer", STAGE, rng)[:1] + maker.make("world_score", STAGE, rng)[:1]
    torch.manual_seed(3)
    model = OPTForCausalLM(
        OPTConfig(
            vocab_size=1024, hidden_size=64, word_embed_proj_dim=64, num_hidden_layers=4, num_attention_heads=4,
            ffn_dim=96, max_position_embeddings=2048, do_layer_norm_before=False, dropout=0.0, init_std=0.1,
        )
    )  # fmt: skip
    model.eval()  # type: ignore[no-untyped-call]
    packer = Packer(maker.root(), 2048)
    for tree in trees:
        packer.add(tree)
    batch = collate([packer.arrays()])
    with torch.no_grad():
        hidden = model.model(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
        logits = model.lm_head(hidden)[0]
    targets = [i for i in range(2048) if batch["kinds"][0, i] in (ANSWER, SCORE)]
    packed = torch.stack([logits[batch["sources"][0, i]] for i in targets])
    plain = torch.cat([_plain_logits(model, maker, tree, branch) for tree in trees for branch in tree.branches])
    assert torch.allclose(packed, plain, atol=1e-4)


def _plain_logits(model: torch.nn.Module, maker: TreeMaker, tree: Tree, branch: Branch) -> torch.Tensor:
    ids = [*maker.root(), *tree.context, *branch.turn, *branch.target]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    return torch.as_tensor(logits[-len(branch.target) - 1 : -1])


def test_segments_tokenise_apart_as_they_do_together(maker: TreeMaker, prompts: PromptSet) -> None:
    rng = random.Random(4)
    for document in World.load().sample_group(rng, num_documents=50, max_facts=7, explicit=0.5):
        passage = prompts.passage_text(document.title, document.text)
        prompt = prompts.score_prompt("How high is it?", passage)
        apart = maker.root() + maker.ids(prompt.context[0]) + maker.ids(prompt.turn)
        assert apart == list(maker.tokenizer.encode(prompt.text).ids)


def test_both_labels_are_single_tokens(maker: TreeMaker, prompts: PromptSet) -> None:
    assert len(maker.ids(prompts.label_true)) == len(maker.ids(prompts.label_false)) == 1
    assert maker.ids(prompts.label_true) != maker.ids(prompts.label_false)


def test_answers_end_with_the_end_token_and_labels_do_not(maker: TreeMaker) -> None:
    rng = random.Random(5)
    end = token_id(maker.tokenizer, EOS)
    assert all(b.target[-1] == end for b in maker.make("world_answer", STAGE, rng)[0].branches)
    assert all(b.target[-1] != end for b in maker.make("world_score", STAGE, rng)[0].branches)


def test_a_packer_never_runs_over_its_length(maker: TreeMaker) -> None:
    packer = Packer(maker.root(), 600)
    rng = random.Random(6)
    for _ in range(20):
        for tree in maker.make("world_score", STAGE, rng):
            if packer.has_room(tree):
                packer.add(tree)
    arrays = packer.arrays()
    assert arrays["input_ids"].shape == (600,)
    assert (arrays["kinds"][len(packer.ids) :] == IGNORED).all()


def test_a_saved_tokenizer_reads_back_the_same(maker: TreeMaker, tmp_path: Path) -> None:
    save_tokenizer(maker.tokenizer, tmp_path)
    text = "Mount Karvel rises to 4,210 metres.\n\nUser: naïve 漢字"
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids == maker.tokenizer.encode(text).ids
    assert maker.tokenizer.decode(maker.ids(text)) == text


def test_pointers_look_at_the_tokens_that_come_next(maker: TreeMaker) -> None:
    packer = Packer(maker.root(), 2048)
    for _ in range(3):
        packer.add(maker.make("world_answer", STAGE, random.Random(5))[0])
    arrays = packer.arrays()
    ids, sources = arrays["input_ids"], arrays["sources"]
    answers = {sources[i]: ids[i] for i in range(2048) if arrays["kinds"][i] == ANSWER}
    looked = 0
    for token, role, spots in zip(arrays["pointing"], arrays["roles"], arrays["spots"], strict=True):
        if role != BIND and token >= 0 and not spots[0]:  # the first token of all: nothing to look at
            assert all(ids[spot] == answers[token] for spot in spots.nonzero()[0])
            looked += 1
    assert looked > 10


def test_every_pointer_can_see_its_spots(maker: TreeMaker) -> None:
    """Otherwise its loss is infinite and the training is lost."""
    for seed in range(30):
        packer = Packer(maker.root(), 1024)
        for kind in ("world_score", "world_answer"):
            for tree in maker.make(kind, STAGE, random.Random(seed)):
                if packer.has_room(tree):
                    packer.add(tree)
        arrays = packer.arrays()
        for token, spots in zip(arrays["pointing"], arrays["spots"], strict=True):
            assert token < 0 or (arrays["attention_mask"][token] & spots).any()


def test_names_are_bound_to_what_is_said_of_them(maker: TreeMaker) -> None:
    """Where a question names its entity, and where the passage of the answer has its title."""
    trees = [maker.make("world_answer", STAGE, random.Random(seed))[0] for seed in range(10)]
    bound = [(tree, branch, home) for tree in trees for branch in tree.branches for home in branch.homes]
    for tree, branch, home in bound:
        name = [branch.turn[k] for k in branch.name]
        title = [tree.context[k] for k in home]
        assert maker.tokenizer.decode(name).strip().casefold() == maker.tokenizer.decode(title).strip().casefold()
    assert len(bound) > 10
